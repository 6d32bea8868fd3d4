// Masses of tokens in fixed point: their sums are exact, so that they may be added up in any order, by atomics too.
#pragma once

#include <cstdint>

namespace mtp_ext {

inline constexpr int kMassBits = 40;  // of the mass 1; 2^23 tokens of it still fit 64 bits

// Of a mass from 0 to 1, rounded down. In two steps of 32 bits: one of 64 is slow on many devices.
__device__ inline uint64_t fixed_mass(float mass) {
  const float scaled = mass * 0x1p8f;
  const auto high = static_cast<uint32_t>(scaled);
  const auto low = static_cast<uint32_t>((scaled - static_cast<float>(high)) * 0x1p32f);
  return static_cast<uint64_t>(high) << 32 | low;
}

}  // namespace mtp_ext
