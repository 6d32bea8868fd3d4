// Reductions of a warp and of a block, always in the same order: a sum is the same bit for bit whenever it is formed.
#pragma once

#include <cstdint>

#include "../number_types.h"

namespace mtp_ext {

inline constexpr int kWarp = 32;
inline constexpr unsigned kAllOfWarp = 0xffffffffu;

struct Add {
  template <typename number_t>
  __device__ number_t operator()(number_t a, number_t b) const {
    return a + b;
  }
};

struct Larger {  // of two numbers, and a number rather than a NaN
  __device__ float operator()(float a, float b) const { return fmaxf(a, b); }
  __device__ int operator()(int a, int b) const { return a > b ? a : b; }
};

// What all 32 lanes have, in a butterfly; all lanes get it.
template <typename number_t, typename Combine>
__device__ inline number_t reduce_warp(number_t x, Combine combine) {
#pragma unroll
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    x = combine(x, __shfl_xor_sync(kAllOfWarp, x, distance));
  }
  return x;
}

// What all threads of a block have; all get it. The block is of whole warps; `scratch` [threads / 32] is shared memory
// that nobody else uses until the next barrier.
template <typename number_t, typename Combine>
__device__ inline number_t reduce_block(number_t x, number_t* scratch, Combine combine) {
  x = reduce_warp(x, combine);
  const int warps = blockDim.x / kWarp;
  __syncthreads();  // the scratch may still be read from the last time
  if (threadIdx.x % kWarp == 0) scratch[threadIdx.x / kWarp] = x;
  __syncthreads();
  number_t result = scratch[0];
  for (int warp = 1; warp < warps; ++warp) result = combine(result, scratch[warp]);
  return result;
}

}  // namespace mtp_ext
