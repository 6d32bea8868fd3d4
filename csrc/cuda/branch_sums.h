// The first of two passes over branch logits: the sum of the exponentials of each chunk of each branch,
//   sum_v exp(logits[branch, v]) = exp(largest) * sum         over the columns v of a chunk, `largest` being their
//   largest
// A chunk is the work of one block; its sum depends neither on the grid nor on how the logits are aligned. Torch-free.
#pragma once

#include <cuda_runtime_api.h>

#include "../branch_layout.h"

namespace mtp_ext::cuda {

inline constexpr int kSumBlock = 512;            // columns of a warp
inline constexpr int kSumChunk = 8 * kSumBlock;  // columns of a block

constexpr int64_t sum_blocks(int64_t vocab) { return ceil_div(vocab, kSumBlock); }
constexpr int64_t sum_chunks(int64_t vocab) { return ceil_div(vocab, kSumChunk); }

// An empty sum, of logits that are all -inf, is 0 with `largest` -inf; one over a NaN or +inf is NaN.
struct ChunkSum {
  float largest;  // nats
  float sum;
};

template <typename scalar_t>
struct BranchSumsParams {
  BranchLayout layout;
  int64_t weight_row_stride;  // elements; 0 where ragged
  const scalar_t* logits;
  const float* log_weights;  // branches of weight -inf are not read; null: all are
  ChunkSum* sums;            // [sum_chunks(vocab), total branches], out
  float* block_maxima;       // [total branches, sum_blocks(vocab)], out, where not null: the largest logits
};

template <typename scalar_t>
cudaError_t sum_branches(const BranchSumsParams<scalar_t>& params, cudaStream_t stream);

}  // namespace mtp_ext::cuda
