// Floating-point arithmetic as PTX defines it: bit casts, flushing, saturation, NaN in min and max, conversions.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

namespace ptx_on_cpu {

template <typename To, typename From>
inline To as(From from) {
  static_assert(sizeof(To) == sizeof(From), "a bit cast keeps the size");
  return __builtin_bit_cast(To, from);
}

// .ftz: a subnormal becomes a zero of its sign.
inline float flush(float x) { return std::fpclassify(x) == FP_SUBNORMAL ? std::copysign(0.0f, x) : x; }

// .sat: into [0, 1]; NaN becomes 0.
template <typename T>
inline T saturate(T x) {
  return x > 0 ? (x < 1 ? x : T(1)) : T(0);
}

// max and min return the operand that is not NaN, .NaN variants return NaN; -0 is below +0.
template <typename T>
inline T float_max(T a, T b) {
  if (std::isnan(a)) return b;
  if (std::isnan(b)) return a;
  if (a == b) return std::signbit(a) ? b : a;
  return a > b ? a : b;
}
template <typename T>
inline T float_min(T a, T b) {
  return -float_max<T>(-a, -b);
}
template <typename T>
inline T float_max_nan(T a, T b) {
  return std::isnan(a) || std::isnan(b) ? std::numeric_limits<T>::quiet_NaN() : float_max(a, b);
}
template <typename T>
inline T float_min_nan(T a, T b) {
  return std::isnan(a) || std::isnan(b) ? std::numeric_limits<T>::quiet_NaN() : float_min(a, b);
}

// Float to integer: saturates, NaN becomes 0. `x` is an integer already, by the rounding of the instruction.
template <typename Integer, typename Float>
inline Integer to_integer(Float x) {
  constexpr Integer kLowest = std::numeric_limits<Integer>::min(), kHighest = std::numeric_limits<Integer>::max();
  if (std::isnan(x)) return 0;
  if (double(x) >= double(kHighest)) return kHighest;
  if (double(x) <= double(kLowest)) return kLowest;
  return static_cast<Integer>(x);
}

// 16-bit floats live in registers as their bits.
inline float bf16_to_float(uint16_t bits) { return as<float>(uint32_t(bits) << 16); }
inline float f16_to_float(uint16_t bits) { return float(as<_Float16>(bits)); }
inline uint16_t float_to_bf16(float x) {
  const uint32_t bits = as<uint32_t>(x);
  return std::isnan(x) ? 0x7fff : uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
inline uint16_t float_to_bf16_toward_zero(float x) { return std::isnan(x) ? 0x7fff : uint16_t(as<uint32_t>(x) >> 16); }
inline uint16_t float_to_f16(float x) { return std::isnan(x) ? 0x7fff : as<uint16_t>(_Float16(x)); }
// From double in one rounding.
inline uint16_t double_to_f16(double x) { return std::isnan(x) ? 0x7fff : as<uint16_t>(_Float16(x)); }
inline uint16_t double_to_bf16(double x) {
  float nearest = float(x);  // rounded to odd, so that the second rounding is the only one that counts
  if (std::isfinite(nearest) && double(nearest) != x && !(as<uint32_t>(nearest) & 1)) {
    nearest = std::nextafterf(nearest, double(nearest) < x ? INFINITY : -INFINITY);
  }
  return float_to_bf16(nearest);
}

}  // namespace ptx_on_cpu
