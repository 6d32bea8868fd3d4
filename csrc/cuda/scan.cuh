// Prefix sums over a block, always in the same order.
#pragma once

#include "reduce.cuh"

namespace mtp_ext {

template <typename number_t>
struct Prefix {
  number_t before;   // of the threads before this one
  number_t through;  // with this one; bit for bit what the next thread has before it
  number_t total;    // of the block
};

// `scratch` [threads / 32 + 1] is shared memory that nobody else uses until the next barrier.
template <typename number_t>
__device__ inline Prefix<number_t> scan_block(number_t x, number_t* scratch) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
#pragma unroll
  for (int distance = 1; distance < kWarp; distance *= 2) {
    const number_t other = __shfl_up_sync(kAllOfWarp, x, distance);
    if (lane >= distance) x = other + x;
  }
  const number_t left = __shfl_up_sync(kAllOfWarp, x, 1);
  __syncthreads();  // the scratch may still be read from the last time
  if (lane == kWarp - 1) scratch[warp] = x;
  __syncthreads();
  number_t base = 0, total = 0;
  for (int i = 0; i < static_cast<int>(blockDim.x) / kWarp; ++i) {
    if (i == warp) base = total;
    total = total + scratch[i];
  }
  return {lane == 0 ? base : base + left, base + x, total};
}

}  // namespace mtp_ext
