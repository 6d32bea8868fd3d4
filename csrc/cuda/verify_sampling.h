// Acceptance of drafts by sampling; mtp_ext/verify.py says what the methods are.
//   target_only, without_replacement   u < p / q, from the root down; a refusal leaves max(p - q, 0)
//   traversal                          u < rate, from the leaves up; rate = min(1, rate of the parent * p / q), and a
//                                      refusal leaves the parent max(rate * p - q, 0)     (arXiv 2505.12398)
//   typical                            p > min(epsilon, delta * exp(-entropy of p))         (arXiv 2401.10774)
// Torch-free.
#pragma once

#include <cuda_runtime_api.h>

#include "../sampling_method.h"
#include "accepted.h"

namespace mtp_ext::cuda {

// What is kept of a node whose children are being looked at: the target's distribution after it, by how little it takes
// to say it again, and what the refusals so far have left of it.
struct Visit {
  int node;
  int child;          // the last one that was looked at; the node itself before the first
  bool opened;        // whether what follows is known
  bool broken;        // no distribution: NaN, +inf or nothing but -inf
  bool spent;         // no other child can be accepted
  float best;         // the largest logit
  uint64_t last;      // the least priority that truncation leaves, 0 for all
  double mass;        // of all tokens that is left, against the best one's before any refusal
  double whole_mass;  // the same when it was last added up, not subtracted from
  float taken;        // a token has mass - taken * q left, where that is positive
  double draft_mass;  // of q that is left
  int64_t draft_row;  // of q; -1 before the first child, or where there is none
  double rate;        // at which the path down to here is accepted, by what has been refused below it
};

// What is kept of a node, in device memory.
struct SamplingNode {
  Visit visit;      // while something below it is looked at
  double log_prob;  // of the path down to it, where it is accepted as typical
  int depth;        // the same, or -1
  float taken;      // its parent's `taken` when it was refused, infinity where all was; -1 where it was not
};

template <typename scalar_t>
struct VerifySamplingParams {
  DraftBatch drafts;
  SamplingMethod method;
  int64_t vocab;
  int64_t request_stride, node_stride;  // of the logits, in elements
  int64_t uniform_stride;               // of a request, in elements
  int64_t draft_stride, row_stride;     // of draft_log_probs and draft_rows, in elements
  int64_t q_rows;
  const scalar_t* logits;        // [batch, nodes, vocab]
  const float* uniforms;         // [batch, nodes + 1], the last one for the next token
  const float* draft_log_probs;  // [q_rows, vocab]
  const int64_t* draft_rows;     // [batch, nodes]
  const float* temperature;      // [batch]; this and the next three
  const int64_t* top_k;          // null: no limit
  const float* top_p;            // null: no limit
  const float* min_p;            // null: no limit
  double epsilon, delta;
  SamplingNode* workspace;  // [batch, nodes]
};

template <typename scalar_t>
cudaError_t verify_sampling(const VerifySamplingParams<scalar_t>& params, cudaStream_t stream);

}  // namespace mtp_ext::cuda
