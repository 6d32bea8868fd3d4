// Products of rows of the cache with a panel of query rows, which are the lanes of registers. A number of the cache is
// read where it lies and multiplied with all lanes at once, so that nothing is transposed, and what a softmax does
// along the keys needs no sum across lanes.
//
// All is counted in 32-bit words: a float32, or a pair of bfloat16.
#pragma once

#include <algorithm>
#include <type_traits>

#include "products.h"

namespace mtp_ext {

// The registers of a panel, and how many of sums a tile takes: room is left for a panel's and a number. Of keys a tile
// takes no more than there are registers for their addresses.
#if defined(__AVX512F__)
inline constexpr int64_t kMostVectors = 4, kSums = 16;
#elif defined(__AVX2__)
inline constexpr int64_t kMostVectors = 2, kSums = 12;
#else
inline constexpr int64_t kMostVectors = 4, kSums = 8;
#endif
inline constexpr int64_t kPanelRows = kMostVectors * kLanes;
inline constexpr int64_t kMostTileKeys = 8;
constexpr int64_t numbers_of_tile(int64_t vectors) { return kSums / vectors; }
constexpr int64_t keys_of_tile(int64_t vectors) { return std::min(kMostTileKeys, kSums / vectors); }

// All lanes the same 32 bits.
inline Floats broadcast_word(const float* word) {
#if defined(__AVX512F__)
  return _mm512_set1_ps(*word);
#else
  return broadcast(*word);
#endif
}

// Calls body(first row, vectors as a constant) for panels of `rows`, a multiple of 16.
template <typename Body>
void for_panels(int64_t rows, Body&& body) {
  int64_t first = 0;
  for (; first + kPanelRows <= rows; first += kPanelRows) {
    body(first, std::integral_constant<int64_t, kMostVectors>{});
  }
#if defined(__AVX512F__)
  if (rows - first >= 32) {
    body(first, std::integral_constant<int64_t, 2>{});
    first += 32;
  }
  if (rows - first >= 16) body(first, std::integral_constant<int64_t, 1>{});
#endif
}

// scores[key, lane] = sum_w keys[key][w] * queries[w, lane]
template <typename operand_t, int64_t kVectors>
void score_tile(const float* const* keys, int64_t words, const float* queries, float* scores) {
  constexpr int64_t kKeys = keys_of_tile(kVectors), kStride = kVectors * kLanes;
  Floats sums[kKeys * kVectors];
  unrolled<kKeys * kVectors>([&](auto i) { sums[i] = Floats{}; });
  const float* rows[kKeys];
  for (int64_t key = 0; key < kKeys; ++key) rows[key] = keys[key];
#pragma GCC unroll 4
  for (int64_t w = 0; w < words; ++w) {
    Floats query[kVectors];
    unrolled<kVectors>([&](auto v) { query[v] = load(queries + w * kStride + v * kLanes); });
    unrolled<kKeys>([&](auto key) {
      const Floats number = broadcast_word(rows[key] + w);
      unrolled<kVectors>([&](auto v) {
        Floats& sum = sums[key * kVectors + v];
        sum = Products<operand_t>::add(number, query[v], sum);
      });
    });
  }
  unrolled<kKeys * kVectors>([&](auto i) { store(scores + i * kLanes, sums[i]); });
}

// out[number, lane] = kept[lane] * out[number, lane] + sum_key values[key][number] * weights[key, lane]
template <typename operand_t, int64_t kVectors, int64_t kNumbers>
void value_tile(const float* const* values, int64_t keys, int64_t number, const float* weights, const float* kept,
                float* out) {
  constexpr int64_t kStride = kVectors * kLanes;
  Floats sums[kNumbers * kVectors];
  unrolled<kNumbers * kVectors>([&](auto i) { sums[i] = Floats{}; });
#pragma GCC unroll 4
  for (int64_t key = 0; key < keys; ++key) {
    const float* value = values[key] + number;
    Floats weight[kVectors];
    unrolled<kVectors>([&](auto v) { weight[v] = load(weights + key * kStride + v * kLanes); });
    unrolled<kNumbers>([&](auto n) {
      const Floats factor = broadcast_word(value + n);
      unrolled<kVectors>([&](auto v) {
        Floats& sum = sums[n * kVectors + v];
        sum = Products<operand_t>::add(factor, weight[v], sum);
      });
    });
  }
  unrolled<kNumbers * kVectors>([&](auto i) {
    float* target = out + i * kLanes;
    store(target, fma(load(target), load(kept + i % kVectors * kLanes), sums[i]));
  });
}

}  // namespace mtp_ext
