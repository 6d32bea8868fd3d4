// The vector vocabulary of the CPU kernels: one register of floats, whatever the instruction set.
//
// Each kernel is compiled once for AVX-512, once for AVX2 and once for the plain architecture; only this file
// knows the difference. A Floats is a compiler vector type, so + - * / and comparisons are the language's
// own.
//
//   exp2(y)  2^y, y in octaves. Polynomial of degree 5 on [0, 1) or [-0.5, 0.5]: relative error 1.5e-7 measured
//            over all of it. 1 at 0, 0 below -127 at the latest, +inf from 128 on at the latest, NaN stays NaN.
//   log(x)   natural logarithm of a positive normal number. Relative error 1e-7 measured on [0.707, 1.414].
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "../number_types.h"

namespace mtp_ext {

#if defined(__AVX512F__)
using Floats = __m512;
inline constexpr int64_t kVectorBytes = 64;
#elif defined(__AVX2__)
using Floats = __m256;
inline constexpr int64_t kVectorBytes = 32;
#else
inline constexpr int64_t kVectorBytes = 16;
typedef float Floats __attribute__((vector_size(kVectorBytes)));
#endif

inline constexpr int64_t kLanes = kVectorBytes / sizeof(float);
inline constexpr uint32_t kAllLanes = static_cast<uint32_t>((uint64_t{1} << kLanes) - 1);
typedef int32_t Integers __attribute__((vector_size(kVectorBytes)));

inline Floats broadcast(float value) { return value - Floats{}; }

template <typename Body, int64_t... kIndices>
inline void call_for_each(Body& body, std::integer_sequence<int64_t, kIndices...>) {
  (body(std::integral_constant<int64_t, kIndices>{}), ...);
}

// Calls body(i) for 0 <= i < kCount, i a constant: an array of registers that is indexed by it stays in registers,
// where a loop may keep it in memory.
template <int64_t kCount, typename Body>
inline void unrolled(Body&& body) {
  call_for_each(body, std::make_integer_sequence<int64_t, kCount>{});
}

inline float to_float(float value) { return value; }

inline float to_float(bfloat16 value) {
  const uint32_t bits = static_cast<uint32_t>(value.bits) << 16;
  float result;
  std::memcpy(&result, &bits, sizeof(result));
  return result;
}

inline float to_float(float16 value) {
  const uint32_t sign = static_cast<uint32_t>(value.bits & 0x8000) << 16;
  const uint32_t magnitude = value.bits & 0x7fff;
  uint32_t bits;
  if (magnitude >= 0x7c00) {
    bits = 0x7f800000 | (magnitude & 0x3ff) << 13;  // infinity and NaN
  } else if (magnitude >= 0x0400) {
    bits = (magnitude << 13) + 0x38000000;  // normal: the exponent's bias goes from 15 to 127
  } else {
    const float subnormal = static_cast<float>(magnitude) * 0x1p-24f;
    std::memcpy(&bits, &subnormal, sizeof(bits));
  }
  bits |= sign;
  float result;
  std::memcpy(&result, &bits, sizeof(result));
  return result;
}

inline bfloat16 to_bfloat16(float value) {  // to nearest even
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  if (value != value) return {static_cast<uint16_t>(bits >> 16 | 0x40)};
  return {static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

inline float16 to_float16(float value) {  // to nearest even
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  const uint16_t sign = static_cast<uint16_t>(bits >> 16 & 0x8000);
  bits &= 0x7fffffff;
  if (bits > 0x7f800000) return {static_cast<uint16_t>(sign | 0x7e00)};
  if (bits >= 0x477ff000) return {static_cast<uint16_t>(sign | 0x7c00)};  // 65520 and more round to infinity
  if (bits < 0x38800000) {                                                // subnormal: let the addition round
    float magnitude;
    std::memcpy(&magnitude, &bits, sizeof(magnitude));
    magnitude += 0.5f;
    std::memcpy(&bits, &magnitude, sizeof(bits));
    return {static_cast<uint16_t>(sign | (bits - 0x3f000000))};
  }
  return {static_cast<uint16_t>(sign | ((bits - 0x38000000 + 0xfff + (bits >> 13 & 1)) >> 13))};
}

inline void store_number(float* out, float value) { *out = value; }
inline void store_number(bfloat16* out, float value) { *out = to_bfloat16(value); }
inline void store_number(float16* out, float value) { *out = to_float16(value); }

// ---- Loads, stores, and what the instruction sets do differently ----------------------------------------

#if defined(__AVX512F__)

inline Floats load(const float* data) { return _mm512_loadu_ps(data); }
inline Floats load(const bfloat16* data) {
  const __m512i words = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(data)));
  return _mm512_castsi512_ps(_mm512_slli_epi32(words, 16));
}
inline Floats load(const float16* data) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(data)));
}
inline void store(float* data, Floats value) { _mm512_storeu_ps(data, value); }
inline Floats fma(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
inline Floats max(Floats a, Floats b) { return _mm512_max_ps(a, b); }  // b where either is NaN
inline float sum(Floats a) { return _mm512_reduce_add_ps(a); }
inline float maximum(Floats a) { return _mm512_reduce_max_ps(a); }
inline void sums(const Floats (&a)[16], float* out) {  // of sixteen registers at once: 45 instructions
  Floats pairs[8], fours[4], eights[2];
  unrolled<8>([&](auto i) {
    pairs[i] = _mm512_unpacklo_ps(a[2 * i], a[2 * i + 1]) + _mm512_unpackhi_ps(a[2 * i], a[2 * i + 1]);
  });
  unrolled<4>([&](auto i) {
    const __m512d even = _mm512_castps_pd(pairs[2 * i]), odd = _mm512_castps_pd(pairs[2 * i + 1]);
    fours[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(even, odd)) + _mm512_castpd_ps(_mm512_unpackhi_pd(even, odd));
  });
  unrolled<2>([&](auto i) {
    eights[i] = _mm512_shuffle_f32x4(fours[2 * i], fours[2 * i + 1], 0x88) +
                _mm512_shuffle_f32x4(fours[2 * i], fours[2 * i + 1], 0xdd);
  });
  store(out, _mm512_shuffle_f32x4(eights[0], eights[1], 0x88) + _mm512_shuffle_f32x4(eights[0], eights[1], 0xdd));
}
// a b + sum, where a and b are pairs of bfloat16; and how such pairs are made of float32. Assembly, since the library
// also serves processors without it.
inline Floats bfloat16_dots(Floats a, Floats b, Floats sum) {
  asm("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
  return sum;
}
inline Floats bfloat16_pairs(Floats even, Floats odd) {
  __m512i halves;
  asm("vcvtne2ps2bf16 %2, %1, %0" : "=v"(halves) : "v"(odd), "v"(even));
  const __m512i interleave = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22,
                                              6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  return _mm512_castsi512_ps(_mm512_permutexvar_epi16(interleave, halves));
}
inline bool has_bfloat16_dots() { return __builtin_cpu_supports("avx512bf16"); }
inline uint32_t less_mask(Floats a, Floats b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
inline Floats keep(Floats a, uint32_t lanes, float otherwise) {
  return _mm512_mask_mov_ps(broadcast(otherwise), static_cast<__mmask16>(lanes), a);
}

#elif defined(__AVX2__)

inline Floats load(const float* data) { return _mm256_loadu_ps(data); }
inline Floats load(const bfloat16* data) {
  const __m256i words = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(data)));
  return _mm256_castsi256_ps(_mm256_slli_epi32(words, 16));
}
inline Floats load(const float16* data) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(data)));
}
inline void store(float* data, Floats value) { _mm256_storeu_ps(data, value); }
inline Floats fma(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
inline Floats max(Floats a, Floats b) { return _mm256_max_ps(a, b); }  // b where either is NaN
inline Floats min(Floats a, Floats b) { return _mm256_min_ps(a, b); }  // b where either is NaN
inline uint32_t less_mask(Floats a, Floats b) {
  return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_LT_OQ)));
}

#else

template <typename scalar_t>
inline Floats load(const scalar_t* data) {
  Floats value;
  for (int64_t i = 0; i < kLanes; ++i) value[i] = to_float(data[i]);
  return value;
}
inline void store(float* data, Floats value) { std::memcpy(data, &value, sizeof(value)); }
inline Floats fma(Floats a, Floats b, Floats c) { return a * b + c; }
inline Floats max(Floats a, Floats b) { return a > b ? a : b; }  // b where either is NaN
inline Floats min(Floats a, Floats b) { return a < b ? a : b; }  // b where either is NaN
inline uint32_t less_mask(Floats a, Floats b) {
  const Integers less = a < b;
  uint32_t mask = 0;
  for (int64_t i = 0; i < kLanes; ++i) mask |= (less[i] & 1u) << i;
  return mask;
}

#endif

#if !defined(__AVX512F__)

inline bool has_bfloat16_dots() { return false; }
inline Floats keep(Floats a, uint32_t lanes, float otherwise) {
  for (int64_t i = 0; i < kLanes; ++i) a[i] = lanes >> i & 1 ? a[i] : otherwise;
  return a;
}
inline float sum(Floats a) {
  float total = 0;
  for (int64_t i = 0; i < kLanes; ++i) total += a[i];
  return total;
}
inline void sums(const Floats (&a)[16], float* out) {
  for (int64_t i = 0; i < 16; ++i) out[i] = sum(a[i]);
}
inline float maximum(Floats a) {
  float result = a[0];
  for (int64_t i = 1; i < kLanes; ++i) result = std::max(result, a[i]);
  return result;
}

#endif

// ---- Two registers at a time
// ---------------------------------------------------------------------------------

// 2 * kLanes consecutive numbers, in the order in which they are cheapest to load; in_order undoes it for
// results.
struct FloatsPair {
  Floats first, second;
};

template <typename scalar_t>
FloatsPair load_pair(const scalar_t* data) {
  return {load(data), load(data + kLanes)};
}

template <typename scalar_t>
FloatsPair in_order(FloatsPair pair) {
  return pair;
}

// bfloat16, the even and the odd ones: an instruction each, where widening one half takes two.
#if defined(__AVX512F__)
template <>
inline FloatsPair load_pair(const bfloat16* data) {
  const __m512i words = _mm512_loadu_si512(data);
  return {_mm512_castsi512_ps(_mm512_slli_epi32(words, 16)),
          _mm512_castsi512_ps(_mm512_and_si512(words, _mm512_set1_epi32(static_cast<int>(0xffff0000))))};
}

template <>
inline FloatsPair in_order<bfloat16>(FloatsPair pair) {
  const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  const __m512i high = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
  return {_mm512_permutex2var_ps(pair.first, low, pair.second), _mm512_permutex2var_ps(pair.first, high, pair.second)};
}
#elif defined(__AVX2__)
template <>
inline FloatsPair load_pair(const bfloat16* data) {
  const __m256i words = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(data));
  return {_mm256_castsi256_ps(_mm256_slli_epi32(words, 16)),
          _mm256_castsi256_ps(_mm256_and_si256(words, _mm256_set1_epi32(static_cast<int>(0xffff0000))))};
}

template <>
inline FloatsPair in_order<bfloat16>(FloatsPair pair) {
  const __m256 low = _mm256_unpacklo_ps(pair.first, pair.second);  // 0 to 3 and 8 to 11
  const __m256 high = _mm256_unpackhi_ps(pair.first, pair.second);
  return {_mm256_permute2f128_ps(low, high, 0x20), _mm256_permute2f128_ps(low, high, 0x31)};
}
#endif

// Brings a row of `dim` numbers into the second-level cache: rows 4 KiB apart share the few places that the first has
// for them, and they are too far apart for the hardware to foresee.
template <typename scalar_t>
void prefetch_row(const scalar_t* row, int64_t dim) {
  const char* bytes = reinterpret_cast<const char*>(row);
  for (int64_t i = 0; i < dim * static_cast<int64_t>(sizeof(scalar_t)); i += 64) __builtin_prefetch(bytes + i, 0, 2);
}

// The first `count` < kLanes elements; `fill` elsewhere.
template <typename scalar_t>
inline Floats load_partial(const scalar_t* data, int64_t count, float fill) {
  Floats value = broadcast(fill);
  for (int64_t i = 0; i < count; ++i) value[i] = to_float(data[i]);
  return value;
}

// bfloat16 by rounding to nearest even.
inline void store(bfloat16* data, Floats value) {
#if defined(__AVX512F__)
  const __m512i bits = _mm512_castps_si512(value);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i sum = _mm512_add_epi32(_mm512_add_epi32(bits, odd), _mm512_set1_epi32(0x7fff));
  const __mmask16 is_nan = _mm512_cmp_ps_mask(value, value, _CMP_UNORD_Q);
  const __m512i rounded = _mm512_mask_mov_epi32(sum, is_nan, _mm512_set1_epi32(0x7fc00000));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(data), _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16)));
#else
  for (int64_t i = 0; i < kLanes; ++i) data[i] = to_bfloat16(value[i]);
#endif
}

inline void store(float16* data, Floats value) {
#if defined(__AVX512F__)
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(data), _mm512_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT));
#elif defined(__AVX2__)
  _mm_storeu_si128(reinterpret_cast<__m128i*>(data), _mm256_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT));
#else
  for (int64_t i = 0; i < kLanes; ++i) data[i] = to_float16(value[i]);
#endif
}

// The first `count` <= kLanes elements.
template <typename scalar_t>
void store_lanes(scalar_t* data, int64_t count, Floats value) {
  if (count == kLanes) return store(data, value);
  for (int64_t i = 0; i < count; ++i) store_number(data + i, value[i]);
}

// ---- Two functions ----------------------------------------------------------------------------------------

#if defined(__AVX512F__)

inline Floats exp2(Floats y) {
  const Floats r = _mm512_reduce_ps(y, _MM_FROUND_TO_NEG_INF);  // y - floor(y), 0 at infinity
  Floats p = fma(broadcast(0.0018671301659196615f), r, broadcast(0.009017029777169228f));
  p = fma(p, r, broadcast(0.05579991266131401f));
  p = fma(p, r, broadcast(0.24016444385051727f));
  p = fma(p, r, broadcast(0.6931512951850891f));
  p = fma(p, r, broadcast(1.0f));
  return _mm512_scalef_ps(p, y);  // floors y itself
}

#else

// Added to y, it leaves the nearest integer in the lowest bits, plus the bias of an exponent: shifted by 23 they are
// that power of two. The clamps keep it in its field: 2^-127 is written as 0 and 2^128 as infinity.
inline Floats exp2(Floats y) {
  const Floats magic = broadcast(0x1.8p23f + 127);
  y = min(broadcast(128.0f), max(broadcast(-127.0f), y));
  const Floats rounded = y + magic;
  const Floats r = y - (rounded - magic);
  Floats p = fma(broadcast(0.001326411496847868f), r, broadcast(0.00967133603990078f));
  p = fma(p, r, broadcast(0.05550722777843475f));
  p = fma(p, r, broadcast(0.24022243916988373f));
  p = fma(p, r, broadcast(0.6931470036506653f));
  p = fma(p, r, broadcast(1.0f));
  return p * (Floats)((Integers)rounded << 23);
}

#endif

inline Floats log(Floats x) {
  const Integers bits = (Integers)x;
  const Integers exponent = (bits - 0x3f3504f3) >> 23;  // so that the mantissa lies in [sqrt(1/2), sqrt(2))
  const Floats f = (Floats)(bits - (exponent << 23)) - 1.0f;
  Floats p = fma(broadcast(0.08734846115112305f), f, broadcast(-0.14307524263858795f));
  p = fma(p, f, broadcast(0.14917974174022675f));
  p = fma(p, f, broadcast(-0.16570508480072021f));
  p = fma(p, f, broadcast(0.19962072372436523f));
  p = fma(p, f, broadcast(-0.25001755356788635f));
  p = fma(p, f, broadcast(0.33333951234817505f));
  p = fma(p, f, broadcast(-0.49999991059303284f));
  const Floats octaves = __builtin_convertvector(exponent, Floats);
  return fma(octaves, broadcast(static_cast<float>(kLn2)), fma(f * f, p, f));
}

// tanh(x). Relative error 1e-7 below 0.625, absolute error 1e-7 above.
inline Floats tanh(Floats x) {
  const Floats square = x * x;
  Floats p = fma(broadcast(-5.70498872745e-3f), square, broadcast(2.06390887954e-2f));
  p = fma(p, square, broadcast(-5.37397155531e-2f));
  p = fma(p, square, broadcast(1.33314422036e-1f));
  p = fma(p, square, broadcast(-3.33332819422e-1f));
  const Floats small = fma(p * square, x, x);
  const Floats large = 1.0f - 2.0f / (1.0f + exp2(x * (2 * kLog2E)));
  return square < 0.390625f ? small : large;
}

}  // namespace mtp_ext
