// Arithmetic on 16-bit floats and on pairs of them in one register: every result is rounded once.
#pragma once
#include "numbers.h"

namespace ptx_on_cpu {

struct F16 {
  static double from(uint16_t bits) { return f16_to_float(bits); }
  static uint16_t to(double x) { return double_to_f16(x); }
};
struct Bf16 {
  static double from(uint16_t bits) { return bf16_to_float(bits); }
  static uint16_t to(double x) { return double_to_bf16(x); }
};

// Sums and products of two 16-bit floats are exact in double or round as the true value does; so is a*b+c but for
// cases that lie within 2^-53 of a tie.
inline double add(double a, double b) { return a + b; }
inline double sub(double a, double b) { return a - b; }
inline double mul(double a, double b) { return a * b; }
inline double min(double a, double b) { return float_min(a, b); }
inline double max(double a, double b) { return float_max(a, b); }
inline double min_nan(double a, double b) { return float_min_nan(a, b); }
inline double max_nan(double a, double b) { return float_max_nan(a, b); }
inline double ex2(double a) { return std::exp2(a); }
inline double tanh(double a) { return std::tanh(a); }

template <typename Format, typename Operation, typename... Bits>
inline uint16_t half_operation(Operation operation, Bits... operands) {
  return Format::to(operation(Format::from(uint16_t(operands))...));
}
template <typename Format, typename Operation, typename... Bits>
inline uint32_t pair_operation(Operation operation, Bits... operands) {
  return half_operation<Format>(operation, uint16_t(operands)...) |
         uint32_t(half_operation<Format>(operation, uint16_t(operands >> 16)...)) << 16;
}

}  // namespace ptx_on_cpu
