// Integer instructions that C++ has no operator for, after the PTX ISA's own pseudo-code.
#pragma once
#include <algorithm>
#include <cstdint>
#include <type_traits>

namespace ptx_on_cpu {

inline uint32_t multiply_high(uint32_t a, uint32_t b) { return uint32_t(uint64_t(a) * b >> 32); }
inline int32_t multiply_high(int32_t a, int32_t b) { return int32_t(int64_t(a) * b >> 32); }
inline uint64_t multiply_high(uint64_t a, uint64_t b) { return uint64_t((unsigned __int128)a * b >> 64); }
inline int64_t multiply_high(int64_t a, int64_t b) { return int64_t((__int128)a * b >> 64); }

template <typename T>
inline T divide(T a, T b) {
  return b == 0 ? T(-1) : b == T(-1) && std::is_signed_v<T> ? T(0 - std::make_unsigned_t<T>(a)) : T(a / b);
}
template <typename T>
inline T remainder(T a, T b) {
  return b == 0 ? a : b == T(-1) && std::is_signed_v<T> ? T(0) : T(a % b);
}

// Shifts by the width or more give zeros, or the sign.
template <typename T>
inline T shift_left(T a, uint32_t count) {
  return count >= sizeof(T) * 8 ? T(0) : T(std::make_unsigned_t<T>(a) << count);
}
template <typename T>
inline T shift_right(T a, uint32_t count) {
  constexpr uint32_t kBits = sizeof(T) * 8;
  return count < kBits ? T(a >> count) : std::is_signed_v<T> ? T(a >> (kBits - 1)) : T(0);
}
// shf: 32 bits out of the 64 in {high, low}. wrap takes the count modulo 32, clamp at most 32.
inline uint32_t funnel_left(uint32_t low, uint32_t high, uint32_t count) {
  return uint32_t(((uint64_t(high) << 32 | low) << count) >> 32);
}
inline uint32_t funnel_right(uint32_t low, uint32_t high, uint32_t count) {
  return uint32_t((uint64_t(high) << 32 | low) >> count);
}

inline uint32_t leading_zeros(uint32_t x) { return x ? uint32_t(__builtin_clz(x)) : 32; }
inline uint32_t leading_zeros(uint64_t x) { return x ? uint32_t(__builtin_clzll(x)) : 64; }
template <typename T>
inline T reverse_bits(T x) {
  T reversed = 0;
  for (unsigned i = 0; i < sizeof(T) * 8; ++i) reversed |= (x >> i & 1) << (sizeof(T) * 8 - 1 - i);
  return reversed;
}
// bfind: the place of the highest bit that differs from the sign; -1 where there is none.
template <typename T>
inline uint32_t highest_bit(T x) {
  std::make_unsigned_t<T> bits = x;
  if (std::is_signed_v<T> && x < 0) bits = ~bits;
  return bits == 0 ? ~0u : 63 - uint32_t(__builtin_clzll(uint64_t(bits)));
}
template <typename T>
inline uint32_t highest_bit_shift(T x) {
  const uint32_t place = highest_bit(x);
  return place == ~0u ? ~0u : uint32_t(sizeof(T) * 8 - 1) - place;
}

template <typename T>
inline T extract_bits(T a, uint32_t position, uint32_t length) {
  constexpr uint32_t kBits = sizeof(T) * 8;
  position &= 255, length &= 255;
  bool sign = false;
  if (std::is_signed_v<T> && length) sign = a >> std::min(position + length - 1, kBits - 1) & 1;
  std::make_unsigned_t<T> result = 0;
  for (uint32_t i = 0; i < kBits; ++i) {
    const bool bit = i < length && position + i < kBits ? bool(a >> (position + i) & 1) : sign;
    result |= std::make_unsigned_t<T>(bit) << i;
  }
  return T(result);
}
template <typename T>
inline T insert_bits(T a, T into, uint32_t position, uint32_t length) {
  for (uint32_t i = 0; i < (length & 255) && (position & 255) + i < sizeof(T) * 8; ++i) {
    const uint32_t place = (position & 255) + i;
    into = (into & ~(T(1) << place)) | (a >> i & T(1)) << place;
  }
  return into;
}

// prmt: each of four nibbles picks one byte of {b, a}, or spreads its sign.
inline uint32_t permute_bytes(uint32_t a, uint32_t b, uint32_t selector) {
  const uint64_t bytes = uint64_t(b) << 32 | a;
  uint32_t result = 0;
  for (int i = 0; i < 4; ++i) {
    const uint32_t nibble = selector >> (4 * i) & 15;
    uint32_t byte = uint32_t(bytes >> (8 * (nibble & 7))) & 255;
    if (nibble & 8) byte = byte & 0x80 ? 255 : 0;
    result |= byte << (8 * i);
  }
  return result;
}
// lop3: any function of three bits, as a truth table of eight.
inline uint32_t logic3(uint32_t a, uint32_t b, uint32_t c, uint32_t table) {
  uint32_t result = 0;
  for (uint32_t row = 0; row < 8; ++row) {
    if (table >> row & 1) result |= (row & 4 ? a : ~a) & (row & 2 ? b : ~b) & (row & 1 ? c : ~c);
  }
  return result;
}

}  // namespace ptx_on_cpu
