// Job: read 8 bytes a chunk of 4,096 columns, an exponential each, write 16 a branch. One thread a branch, which reads
// its chunks twice, the second time from the nearest cache.
#pragma once

#include "branch_normalizers.h"
#include "chunk_sum.cuh"

namespace mtp_ext::cuda {

inline constexpr int kNormalizerThreads = 128;

__global__ void __launch_bounds__(kNormalizerThreads) branch_normalizers_kernel(const BranchNormalizersParams params) {
  const int64_t branch = int64_t{blockIdx.x} * kNormalizerThreads + threadIdx.x;
  if (branch >= params.branches) return;
  const ChunkSum sum = join_chunks(params.sums + branch, params.chunks, params.branches);
  double* out = params.out + 2 * branch;
  out[0] = fabsf(sum.largest) < kInfinity ? sum.largest : 0.0;
  out[1] = sum.largest < kInfinity ? log(static_cast<double>(sum.sum)) : static_cast<double>(kNaN);
}

}  // namespace mtp_ext::cuda
