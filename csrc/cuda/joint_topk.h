// The k best (branch, token) pairs of a row, by w[b] + log_softmax(logits[b])[v] in nats; ties to the lower branch,
// then to the lower token. Torch-free.
#pragma once

#include <cuda_runtime_api.h>

#include "mixture.h"
#include "winners.h"

namespace mtp_ext::cuda {

template <typename scalar_t>
struct JointTopKParams {
  int64_t row_count;
  int64_t branch_stride;  // of the logits, in elements
  int64_t vocab;
  int64_t k;
  int64_t capacity;  // winner_capacity
  const scalar_t* logits;
  const MixtureTerm* terms;   // of the first pass, their weights as they are
  const MixtureRow* rows;     // the same
  const float* block_maxima;  // [total branches, sum_blocks(vocab)], the same
  uint32_t* survivors;        // [total branches, sum_blocks(vocab)], workspace
  uint64_t* workspace;        // [rows, winner_workspace(capacity)]
  float* log_probs;           // [rows, k], out; short rows end in -inf and -1
  int64_t* branches;          // [rows, k], out
  int64_t* tokens;            // [rows, k], out
};

template <typename scalar_t>
cudaError_t joint_topk(const JointTopKParams<scalar_t>& params, cudaStream_t stream);

}  // namespace mtp_ext::cuda
