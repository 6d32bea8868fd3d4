// Rows of numbers laid out anew, in 32-bit words: a float32, or a pair of bfloat16, so that one transposition serves
// both.
//   columns: B[d, row], the transpose; for bfloat16 in pairs along d: B[d / 2, row, 2]
//   rows:    B[row, d]; for bfloat16 in pairs along the rows: B[row / 2, d, 2]
// Missing rows are zeros.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "simd.h"

namespace mtp_ext {

inline constexpr int64_t kMostColumns = 128;  // of pack_columns at a time
inline constexpr int64_t kPrefetchedRows = 16;

// How many 32-bit words a row of `dim` operands takes.
template <typename operand_t>
constexpr int64_t words_of(int64_t dim) {
  return (dim * static_cast<int64_t>(sizeof(operand_t)) + 3) / 4;
}

#if defined(__AVX512F__)
// A square of sixteen rows by sixteen words; rows from `count` on are zeros.
inline void transpose_square(const float* const* rows, int64_t count, int64_t word, int64_t columns, float* out) {
  __m512i block[16];
  for (int64_t j = 0; j < 16; ++j) {
    block[j] = j < count ? _mm512_loadu_si512(rows[j] + word) : _mm512_setzero_si512();
  }
  __m512i pairs[16];
  for (int64_t j = 0; j < 16; j += 2) {
    pairs[j] = _mm512_unpacklo_epi32(block[j], block[j + 1]);
    pairs[j + 1] = _mm512_unpackhi_epi32(block[j], block[j + 1]);
  }
  for (int64_t j = 0; j < 16; j += 4) {
    block[j] = _mm512_unpacklo_epi64(pairs[j], pairs[j + 2]);
    block[j + 1] = _mm512_unpackhi_epi64(pairs[j], pairs[j + 2]);
    block[j + 2] = _mm512_unpacklo_epi64(pairs[j + 1], pairs[j + 3]);
    block[j + 3] = _mm512_unpackhi_epi64(pairs[j + 1], pairs[j + 3]);
  }
  for (int64_t j = 0; j < 4; ++j) {
    const __m512i low_even = _mm512_shuffle_i32x4(block[j], block[j + 4], 0x88);
    const __m512i low_odd = _mm512_shuffle_i32x4(block[j], block[j + 4], 0xdd);
    const __m512i high_even = _mm512_shuffle_i32x4(block[j + 8], block[j + 12], 0x88);
    const __m512i high_odd = _mm512_shuffle_i32x4(block[j + 8], block[j + 12], 0xdd);
    float* column = out + (word + j) * columns;
    _mm512_storeu_si512(column, _mm512_shuffle_i32x4(low_even, high_even, 0x88));
    _mm512_storeu_si512(column + 4 * columns, _mm512_shuffle_i32x4(low_odd, high_odd, 0x88));
    _mm512_storeu_si512(column + 8 * columns, _mm512_shuffle_i32x4(low_even, high_even, 0xdd));
    _mm512_storeu_si512(column + 12 * columns, _mm512_shuffle_i32x4(low_odd, high_odd, 0xdd));
  }
}
#elif defined(__AVX2__)
// The same of eight rows by eight words.
inline void transpose_square(const float* const* rows, int64_t count, int64_t word, int64_t columns, float* out) {
  __m256 block[8], pairs[8];
  for (int64_t j = 0; j < 8; ++j) block[j] = j < count ? _mm256_loadu_ps(rows[j] + word) : _mm256_setzero_ps();
  for (int64_t j = 0; j < 8; j += 2) {
    pairs[j] = _mm256_unpacklo_ps(block[j], block[j + 1]);
    pairs[j + 1] = _mm256_unpackhi_ps(block[j], block[j + 1]);
  }
  for (int64_t j = 0; j < 8; j += 4) {
    block[j] = _mm256_shuffle_ps(pairs[j], pairs[j + 2], 0x44);
    block[j + 1] = _mm256_shuffle_ps(pairs[j], pairs[j + 2], 0xee);
    block[j + 2] = _mm256_shuffle_ps(pairs[j + 1], pairs[j + 3], 0x44);
    block[j + 3] = _mm256_shuffle_ps(pairs[j + 1], pairs[j + 3], 0xee);
  }
  for (int64_t j = 0; j < 4; ++j) {
    _mm256_storeu_ps(out + (word + j) * columns, _mm256_permute2f128_ps(block[j], block[j + 4], 0x20));
    _mm256_storeu_ps(out + (word + j + 4) * columns, _mm256_permute2f128_ps(block[j], block[j + 4], 0x31));
  }
}
#endif

// out[word, i] = rows[i][word] for `count` <= columns rows; columns is a multiple of 16.
inline void transpose_words(const float* const* rows, int64_t count, int64_t words, int64_t columns, float* out) {
  for (int64_t i = 0; i < columns; i += 16) {
    const int64_t live = std::clamp<int64_t>(count - i, 0, 16);
    for (int64_t next = i + 16; next < std::min(i + 32, count); ++next) prefetch_row(rows[next], words);
    int64_t word = 0;
#if defined(__AVX2__)
    for (; word + kLanes <= words; word += kLanes) {
      for (int64_t j = 0; j < 16; j += kLanes) transpose_square(rows + i + j, live - j, word, columns, out + i + j);
    }
#endif
    for (; word < words; ++word) {
      float* column = out + word * columns + i;
      for (int64_t j = 0; j < live; ++j) std::memcpy(column + j, rows[i + j] + word, sizeof(float));
      std::fill(column + live, column + 16, 0.0f);
    }
  }
}

// A row in the type of the operands: itself, or a converted copy in `storage`.
inline const float* as_operand(const float* row, int64_t, float*) { return row; }
inline const bfloat16* as_operand(const bfloat16* row, int64_t, bfloat16*) { return row; }
template <typename scalar_t>
const float* as_operand(const scalar_t* row, int64_t dim, float* storage) {
  int64_t i = 0;
  for (; i + kLanes <= dim; i += kLanes) store(storage + i, load(row + i));
  for (; i < dim; ++i) storage[i] = to_float(row[i]);
  return storage;
}

// rows: `count` pointers to `dim` numbers each; out: round_up(dim, 2) x columns operands. `scratch` holds
// kMostColumns * (dim + 1) operands.
template <typename scalar_t, typename operand_t>
void pack_columns(const scalar_t* const* rows, int64_t count, int64_t dim, int64_t columns, operand_t* scratch,
                  operand_t* out) {
  const float* words[kMostColumns];
  const bool whole_words = dim * sizeof(operand_t) % 4 == 0;
  for (int64_t i = 0; i < count; ++i) {
    const operand_t* row = as_operand(rows[i], dim, scratch + i * (dim + 1));
    if (!whole_words) {  // the last pair of an odd number of bfloat16 ends in a zero
      operand_t* padded = scratch + i * (dim + 1);
      std::copy(row, row + dim, padded);
      padded[dim] = operand_t{};
      row = padded;
    }
    words[i] = reinterpret_cast<const float*>(row);
  }
  transpose_words(words, count, words_of<operand_t>(dim), columns, reinterpret_cast<float*>(out));
}

// out: keys x width, where width >= dim is a multiple of 16 and keys >= count.
template <typename scalar_t>
void pack_rows(const scalar_t* const* rows, int64_t count, int64_t keys, int64_t dim, int64_t width, float* out) {
  for (int64_t i = 0; i < keys; ++i) {
    float* row = out + i * width;
    if (i >= count) {
      std::fill_n(row, width, 0.0f);
      continue;
    }
    if (i + kPrefetchedRows < count) prefetch_row(rows[i + kPrefetchedRows], dim);
    int64_t d = 0;
    for (; d + kLanes <= dim; d += kLanes) store(row + d, load(rows[i] + d));
    for (; d < dim; ++d) row[d] = to_float(rows[i][d]);
    std::fill(row + dim, row + width, 0.0f);
  }
}

// The same in pairs of keys; keys is even.
inline void pack_rows(const bfloat16* const* rows, int64_t count, int64_t keys, int64_t dim, int64_t width,
                      bfloat16* out) {
  for (int64_t i = 0; i < keys; i += 2) {
    bfloat16* row = out + i * width;
    if (i >= count) {
      std::fill_n(row, 2 * width, bfloat16{0});
      continue;
    }
    for (int64_t next = i + kPrefetchedRows; next < std::min(i + kPrefetchedRows + 2, count); ++next) {
      prefetch_row(rows[next], dim);
    }
    const bfloat16* even = rows[i];
    const bfloat16* odd = i + 1 < count ? rows[i + 1] : nullptr;
    int64_t d = 0;
#if defined(__AVX512F__)
    const __m512i interleave = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22,
                                                6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    for (; d + 16 <= dim; d += 16) {
      const __m256i low = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(even + d));
      const __m256i high = odd ? _mm256_loadu_si256(reinterpret_cast<const __m256i*>(odd + d)) : _mm256_setzero_si256();
      const __m512i both = _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
      _mm512_storeu_si512(row + 2 * d, _mm512_permutexvar_epi16(interleave, both));
    }
#endif
    for (; d < dim; ++d) {
      row[2 * d] = even[d];
      row[2 * d + 1] = odd ? odd[d] : bfloat16{0};
    }
    std::fill(row + 2 * dim, row + 2 * width, bfloat16{0});
  }
}

}  // namespace mtp_ext
