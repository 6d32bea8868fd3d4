// Joining the sums of parts of a branch, in their order.
#pragma once

#include "branch_sums.h"
#include "exponential.cuh"

namespace mtp_ext::cuda {

// sums [count], `stride` elements apart. An empty sum, and no sum at all, is {-inf, 0}; a broken one has a `largest` of
// +inf or a `sum` of NaN.
__device__ inline ChunkSum join_chunks(const ChunkSum* sums, int64_t count, int64_t stride) {
  ChunkSum result{-kInfinity, 0};
  for (int64_t i = 0; i < count; ++i) result.largest = fmaxf(result.largest, sums[i * stride].largest);
  const float base = result.largest == -kInfinity ? 0.0f : result.largest;
  for (int64_t i = 0; i < count; ++i) {
    const ChunkSum part = sums[i * stride];
    result.sum += part.sum * exp2_approx((part.largest - base) * kLog2E);
  }
  return result;
}

}  // namespace mtp_ext::cuda
