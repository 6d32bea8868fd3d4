// Sorts a few integers, the largest first, by all threads of a block: a bitonic network, log2(n)^2 / 2 rounds.
#pragma once

#include <cstdint>

namespace mtp_ext {

// `keys` [count], a power of two; in shared memory, or in memory that no other block uses.
__device__ inline void sort_descending(uint64_t* keys, int count) {
  __syncthreads();
  for (int size = 2; size <= count; size *= 2) {
    for (int stride = size / 2; stride > 0; stride /= 2) {
      for (int i = threadIdx.x; i < count / 2; i += blockDim.x) {
        const int low = 2 * i - (i & (stride - 1)), high = low + stride;
        const uint64_t a = keys[low], b = keys[high];
        if ((a < b) == ((low & size) == 0)) {
          keys[low] = b;
          keys[high] = a;
        }
      }
      __syncthreads();
    }
  }
}

}  // namespace mtp_ext
