// Job: read every logit of a live branch once, one exponential each. A block reads 4,096 columns of a branch, 16 bytes
// a load, and keeps them in registers (16 a thread), so that their largest is known before the first exponential; it
// writes 8 bytes. Moves B V (logit bytes) + 8 B V / 4096 bytes; does B V exponentials, V columns of B branches.
#pragma once

#include "branch_sums.h"
#include "chunk_sum.cuh"
#include "numbers.cuh"
#include "reduce.cuh"

namespace mtp_ext::cuda {

inline constexpr int kSumThreads = kSumChunk / kSumBlock * kWarp;
inline constexpr int kSumColumns = kSumBlock / kWarp;  // of a thread

template <typename scalar_t>
__global__ void __launch_bounds__(kSumThreads) sum_branches_kernel(const BranchSumsParams<scalar_t> params) {
  constexpr int kLoads = kSumColumns / kVector<scalar_t>;
  __shared__ ChunkSum parts[kSumThreads / kWarp];
  const BranchLayout& layout = params.layout;
  const auto chunks = static_cast<unsigned>(sum_chunks(layout.vocab));
  const int64_t branch = blockIdx.x / chunks, chunk = blockIdx.x % chunks;
  if (params.log_weights) {
    const int64_t row = layout.indptr ? 0 : branch / layout.branches;
    const float weight = params.log_weights[row * params.weight_row_stride + (branch - row * layout.branches)];
    if (weight == -kInfinity) return;
  }
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const scalar_t* logits = params.logits + layout.offset(branch);
  const int64_t first = chunk * kSumChunk + warp * kSumBlock;
  float x[kLoads][kVector<scalar_t>];
  if (is_aligned(logits) && first + kSumBlock <= layout.vocab) {
#pragma unroll
    for (int i = 0; i < kLoads; ++i) load_vector(logits + first + (i * kWarp + lane) * kVector<scalar_t>, x[i]);
  } else {
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const int64_t column = first + (i * kWarp + lane) * kVector<scalar_t>;
      const auto left = static_cast<int>(min(layout.vocab - column, int64_t{kVector<scalar_t>}));
      load_scalars(logits + column, left, -kInfinity, x[i]);
    }
  }
  float largest = -kInfinity;
#pragma unroll
  for (int i = 0; i < kLoads; ++i) {
#pragma unroll
    for (int j = 0; j < kVector<scalar_t>; ++j) largest = fmaxf(largest, x[i][j]);
  }
  largest = reduce_warp(largest, Larger());
  const float base = largest == -kInfinity ? 0.0f : largest;
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kLoads; ++i) {
    float part = 0;
#pragma unroll
    for (int j = 0; j < kVector<scalar_t>; ++j) part += exp2_approx((x[i][j] - base) * kLog2E);
    sum += part;
  }
  sum = reduce_warp(sum, Add());
  if (lane == 0) {
    parts[warp] = {largest, sum};
    if (params.block_maxima && first < layout.vocab) {
      params.block_maxima[branch * sum_blocks(layout.vocab) + first / kSumBlock] = largest;
    }
  }
  __syncthreads();
  if (threadIdx.x > 0) return;
  params.sums[chunk * layout.total() + branch] = join_chunks(parts, kSumThreads / kWarp, 1);
}

}  // namespace mtp_ext::cuda
