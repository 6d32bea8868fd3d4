// The two ways to multiply in attention, named by the type of queries and weights: float32, by numbers of the cache
// that are widened; or bfloat16 by bfloat16, where the processor has the instruction. From the keys' side, queries are
// stored in the order in which the numbers of a row are multiplied, and results are put back.
#pragma once

#include <cstdint>
#include <cstring>

#include "simd.h"

namespace mtp_ext {

template <typename operand_t>
struct Products;

template <>
struct Products<float> {
  using Key = FloatsPair;
  static constexpr int64_t kKeys = 1;  // whose values are added at a time

  template <typename scalar_t>
  static FloatsPair key(const scalar_t* data) {
    return load_pair(data);
  }
  static Floats dot(const float* query, FloatsPair key, Floats sum) {
    return fma(load(query + kLanes), key.second, fma(load(query), key.first, sum));
  }
  template <typename scalar_t>
  static FloatsPair values(const scalar_t* const* rows, int64_t shift) {
    return load_pair(rows[0] + shift);
  }
  static Floats weight(const float* weights) { return broadcast(*weights); }
  static Floats add(Floats weight, Floats value, Floats sum) { return fma(weight, value, sum); }
  template <typename scalar_t>
  static FloatsPair in_order(FloatsPair sum) {
    return mtp_ext::in_order<scalar_t>(sum);
  }
};

#if defined(__AVX512F__)
template <>
struct Products<bfloat16> {
  using Key = Floats;
  static constexpr int64_t kKeys = 2;

  static Floats key(const bfloat16* data) { return _mm512_loadu_ps(data); }
  static Floats dot(const bfloat16* query, Floats key, Floats sum) {
    return bfloat16_dots(_mm512_loadu_ps(query), key, sum);
  }
  // Pairs of the same number of two rows: of each eight numbers the first four, and the other four.
  static FloatsPair values(const bfloat16* const* rows, int64_t shift) {
    const __m512i even = _mm512_loadu_si512(rows[0] + shift), odd = _mm512_loadu_si512(rows[1] + shift);
    return {_mm512_castsi512_ps(_mm512_unpacklo_epi16(even, odd)),
            _mm512_castsi512_ps(_mm512_unpackhi_epi16(even, odd))};
  }
  static Floats weight(const bfloat16* weights) {
    float pair;
    std::memcpy(&pair, weights, sizeof(pair));
    return _mm512_set1_ps(pair);
  }
  static Floats add(Floats weights, Floats values, Floats sum) { return bfloat16_dots(weights, values, sum); }
  static Floats pairs(Floats even, Floats odd) { return bfloat16_pairs(even, odd); }
  template <typename scalar_t>
  static FloatsPair in_order(FloatsPair sum) {
    const __m512i low = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
    const __m512i high = _mm512_setr_epi32(8, 9, 10, 11, 24, 25, 26, 27, 12, 13, 14, 15, 28, 29, 30, 31);
    return {_mm512_permutex2var_ps(sum.first, low, sum.second), _mm512_permutex2var_ps(sum.first, high, sum.second)};
  }
};
#endif

}  // namespace mtp_ext
