// The order of candidates, by value descending and then by id ascending, as that of one integer: a larger priority
// comes first. Exact: two candidates never have the same one.
#pragma once

#include <cstdint>

namespace mtp_ext {

// A number that grows with x; -0 is 0.
__device__ inline uint32_t ordered_bits(float x) {
  const uint32_t bits = __float_as_uint(x + 0.0f);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

__device__ inline uint64_t priority_of(float value, uint32_t id) {
  return static_cast<uint64_t>(ordered_bits(value)) << 32 | (0xffffffffu - id);
}

__device__ inline float value_of(uint64_t priority) {
  const auto bits = static_cast<uint32_t>(priority >> 32);
  return __uint_as_float(bits & 0x80000000u ? bits & 0x7fffffffu : ~bits);
}

__device__ inline uint32_t id_of(uint64_t priority) { return 0xffffffffu - static_cast<uint32_t>(priority); }

}  // namespace mtp_ext
