// The most probable token of a row, ties to the lower token; read once.
#pragma once

#include "columns.cuh"
#include "priority.cuh"

namespace mtp_ext {

struct LargerPriority {
  __device__ uint64_t operator()(uint64_t a, uint64_t b) const { return a > b ? a : b; }
};

// -1 where the logits hold NaN or +inf or nothing but -inf. `scratch` [kRowWarps] as in reduce_block.
template <typename scalar_t>
__device__ int64_t argmax_row(const scalar_t* row, int columns, uint64_t* scratch) {
  float largest = -kInfinity;
  int token = 0;
  bool broken = false;
  visit_row(row, columns, [&](int column, const float (&x)[kGroup]) {
#pragma unroll
    for (int i = 0; i < kGroup; ++i) {
      broken |= x[i] != x[i] || x[i] == kInfinity;
      if (x[i] > largest) {
        largest = x[i];
        token = column + i;
      }
    }
  });
  const uint64_t mine = largest == -kInfinity ? 0 : priority_of(largest, token);
  const uint64_t best = reduce_block(mine, scratch, LargerPriority());
  return __syncthreads_or(broken) || best == 0 ? -1 : static_cast<int64_t>(id_of(best));
}

}  // namespace mtp_ext
