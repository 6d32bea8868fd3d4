// Numbers in memory and in registers: float32, bfloat16 and float16 are stored, float32 is computed with. Loads and
// stores of 16 bytes, and the same one by one where a row does not start on 16 bytes.
#pragma once

#include <cuda_fp16.h>

#include "../number_types.h"

namespace mtp_ext {

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(bfloat16 x) { return __uint_as_float(static_cast<uint32_t>(x.bits) << 16); }
__device__ inline float to_float(float16 x) { return __half2float(__ushort_as_half(x.bits)); }

template <typename scalar_t>
__device__ inline scalar_t from_float(float x);

template <>
__device__ inline float from_float<float>(float x) {
  return x;
}

template <>
__device__ inline bfloat16 from_float<bfloat16>(float x) {  // to the nearest, ties to even
  const uint32_t bits = __float_as_uint(x);
  if (x != x) return {0x7fff};
  return {static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

template <>
__device__ inline float16 from_float<float16>(float x) {
  return {__half_as_ushort(__float2half_rn(x))};
}

// How many numbers 16 bytes hold.
template <typename scalar_t>
inline constexpr int kVector = 16 / sizeof(scalar_t);

__device__ inline bool is_aligned(const void* pointer) { return (reinterpret_cast<uintptr_t>(pointer) & 15) == 0; }

// kVector numbers from an address on 16 bytes, as they lie in memory: fewer registers than as float32, while others are
// on their way.
template <typename scalar_t>
__device__ inline uint4 load_packed(const scalar_t* data) {
  return *reinterpret_cast<const uint4*>(data);
}

template <typename scalar_t>
__device__ inline void unpack(const uint4& packed, float (&out)[kVector<scalar_t>]) {
  union {
    uint4 bits;
    scalar_t numbers[kVector<scalar_t>];
  } vector;
  vector.bits = packed;
#pragma unroll
  for (int i = 0; i < kVector<scalar_t>; ++i) out[i] = to_float(vector.numbers[i]);
}

template <typename scalar_t>
__device__ inline void load_vector(const scalar_t* data, float (&out)[kVector<scalar_t>]) {
  unpack<scalar_t>(load_packed(data), out);
}

// The first `count` of kVector numbers from any address; the others become `rest`.
template <typename scalar_t>
__device__ inline void load_scalars(const scalar_t* data, int count, float rest, float (&out)[kVector<scalar_t>]) {
#pragma unroll
  for (int i = 0; i < kVector<scalar_t>; ++i) out[i] = i < count ? to_float(data[i]) : rest;
}

template <typename scalar_t>
__device__ inline void store_vector(scalar_t* data, const float (&in)[kVector<scalar_t>]) {
  union {
    uint4 bits;
    scalar_t numbers[kVector<scalar_t>];
  } vector;
#pragma unroll
  for (int i = 0; i < kVector<scalar_t>; ++i) vector.numbers[i] = from_float<scalar_t>(in[i]);
  *reinterpret_cast<uint4*>(data) = vector.bits;
}

template <typename scalar_t>
__device__ inline void store_scalars(scalar_t* data, int count, const float (&in)[kVector<scalar_t>]) {
#pragma unroll
  for (int i = 0; i < kVector<scalar_t>; ++i) {
    if (i < count) data[i] = from_float<scalar_t>(in[i]);
  }
}

}  // namespace mtp_ext
