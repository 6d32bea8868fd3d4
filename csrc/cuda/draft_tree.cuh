// One request's tree of drafts, walked by a block: the nodes are looked at side by side, so that no list of children is
// needed. A node that is none, with a parent that does not come before it or a token beyond the vocabulary, is never
// accepted, and the status word says so.
#pragma once

#include "accepted.h"
#include "reduce.cuh"
#include "status.cuh"

namespace mtp_ext {

struct DraftTree {
  const int64_t* tokens;
  const int64_t* parents;
  int64_t vocab;
  int count;        // of the nodes before the padding
  unsigned* votes;  // [threads / 32], shared memory of the searches

  __device__ bool holds_token(int node) const { return vocab == 0 || (tokens[node] >= 0 && tokens[node] < vocab); }
};

// The first i of begin <= i < end of which matches(i) holds, or -1, by the whole block; matches(i) is asked of
// different i in different threads. `votes` [threads / 32] is shared memory that nobody else uses.
template <typename Matches>
__device__ int find_first(int begin, int end, unsigned* votes, const Matches& matches) {
  for (; begin < end; begin += blockDim.x) {
    const int i = begin + threadIdx.x;
    const unsigned vote = __ballot_sync(kAllOfWarp, i < end && matches(i));
    __syncthreads();  // the votes may still be counted from the last time
    if (threadIdx.x % kWarp == 0) votes[threadIdx.x / kWarp] = vote;
    __syncthreads();
    for (int warp = 0; warp < static_cast<int>(blockDim.x) / kWarp; ++warp) {
      if (votes[warp] != 0) return begin + warp * kWarp + __ffs(votes[warp]) - 1;
    }
  }
  return -1;
}

// The tree of a request, once its values are known to do no harm.
__device__ inline DraftTree open_tree(const DraftBatch& batch, int64_t request, unsigned* votes) {
  DraftTree tree{batch.tokens + request * batch.token_stride, batch.parents + request * batch.parent_stride,
                 batch.vocab, static_cast<int>(batch.nodes), votes};
  const int padding = find_first(0, tree.count, votes, [&](int i) { return tree.parents[i] == -2; });
  for (int i = threadIdx.x; i < tree.count; i += blockDim.x) {
    const int64_t parent = tree.parents[i];
    const bool padded = padding >= 0 && i >= padding;
    const bool fits = padded ? parent == -2 : i == 0 ? parent == -1 : parent >= 0 && parent < i;
    if (!fits) report(batch.status, Fault::kParent, request * batch.nodes + i);
    if (!padded && !tree.holds_token(i)) report(batch.status, Fault::kToken, request * batch.nodes + i);
  }
  if (padding >= 0) tree.count = padding;
  if (tree.count > 0 && tree.parents[0] != -1) tree.count = 0;
  return tree;
}

// The first child of `node` after the node `after` of which accepts(child) holds, or -1.
template <typename Accepts>
__device__ int next_child(const DraftTree& tree, int node, int after, const Accepts& accepts) {
  return find_first(max(node, after) + 1, tree.count, tree.votes,
                    [&](int i) { return tree.parents[i] == node && tree.holds_token(i) && accepts(i); });
}

// Down the children that are best(node), the target's most probable token or -1. Returns where the path ends, -1 in a
// tree without nodes, and what follows it.
struct Verdict {
  int end;
  int64_t next_token;
};

template <typename Best>
__device__ Verdict follow_best(const DraftTree& tree, const Best& best) {
  Verdict verdict{-1, -1};
  for (int node = tree.count > 0 ? 0 : -1; node >= 0;) {
    const int64_t token = best(node);
    verdict = {node, token};
    node = token < 0 ? -1 : next_child(tree, node, node, [&](int child) { return tree.tokens[child] == token; });
  }
  return verdict;
}

// Writes the path from the root to where it ends.
__device__ inline void write_verdict(const DraftBatch& batch, int64_t request, const DraftTree& tree,
                                     const Verdict& verdict) {
  int64_t* path = batch.path + request * batch.nodes;
  int length = 0;
  for (int64_t node = verdict.end; node >= 0; node = tree.parents[node]) ++length;
  for (int64_t i = length + threadIdx.x; i < batch.nodes; i += blockDim.x) path[i] = -1;
  if (threadIdx.x > 0) return;
  int64_t node = verdict.end;
  for (int i = length - 1; i >= 0; --i, node = tree.parents[node]) path[i] = node;
  batch.lengths[request] = length;
  batch.next_tokens[request] = verdict.next_token;
}

}  // namespace mtp_ext
