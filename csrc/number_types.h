// The numbers that kernels work with. The 16-bit formats are storage only: arithmetic is float32.
#pragma once

#include <cstdint>
#include <limits>

namespace mtp_ext {

inline constexpr float kInfinity = std::numeric_limits<float>::infinity();
inline constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
inline constexpr float kLog2E = 1.44269504088896341f;  // octaves in a nat
inline constexpr double kLn2 = 0.693147180559945309;   // nats in an octave

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t round_up(int64_t a, int64_t multiple) { return ceil_div(a, multiple) * multiple; }

struct bfloat16 {
  uint16_t bits;
};

struct float16 {
  uint16_t bits;
};

}  // namespace mtp_ext
