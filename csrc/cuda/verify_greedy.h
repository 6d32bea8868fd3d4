// verify_greedy: from the root down, the children that are the target's most probable token. Torch-free.
#pragma once

#include <cuda_runtime_api.h>

#include "accepted.h"

namespace mtp_ext::cuda {

template <typename scalar_t>  // float, bfloat16 or float16: logits; int64_t: the most probable tokens themselves
struct VerifyGreedyParams {
  DraftBatch drafts;
  const scalar_t* target;               // [batch, nodes, vocab], or [batch, nodes] tokens
  int64_t request_stride, node_stride;  // of the target, in elements
  int64_t vocab;
};

template <typename scalar_t>
cudaError_t verify_greedy(const VerifyGreedyParams<scalar_t>& params, cudaStream_t stream);

}  // namespace mtp_ext::cuda
