// Job: read the logits of the nodes on the accepted path once each; one comparison each. A block has a request and
// reads exactly that, a row at a time, 32 KiB ahead; rows of other nodes stay unread. Time is the path's length times
// what one multiprocessor needs to read a row. Tokens and parents, 16 bytes a node, are read once, and once more for
// each accepted node, from the cache.
#pragma once

#include "argmax.cuh"
#include "draft_tree.cuh"
#include "verify_greedy.h"

namespace mtp_ext::cuda {

template <typename scalar_t>
__global__ void __launch_bounds__(kRowThreads, 1) verify_greedy_kernel(const VerifyGreedyParams<scalar_t> params) {
  __shared__ uint64_t scratch[kRowWarps];
  __shared__ unsigned votes[kRowWarps];
  const int64_t request = blockIdx.x;
  const DraftTree tree = open_tree(params.drafts, request, votes);
  const scalar_t* target = params.target + request * params.request_stride;
  const Verdict verdict = follow_best(tree, [&](int64_t node) -> int64_t {
    if constexpr (std::is_same_v<scalar_t, int64_t>) {
      return target[node] < 0 ? -1 : target[node];
    } else {
      return argmax_row(target + node * params.node_stride, static_cast<int>(params.vocab), scratch);
    }
  });
  write_verdict(params.drafts, request, tree, verdict);
}

}  // namespace mtp_ext::cuda
