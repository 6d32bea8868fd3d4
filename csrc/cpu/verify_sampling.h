// Acceptance of one request's drafts by sampling; mtp_ext/verify.py says what the methods are.
//   target_only, without_replacement   u < p / q, from the root down; a refusal leaves max(p - q, 0)
//   traversal                          u < rate, from the leaves up; rate = min(1, rate of the parent * p / q), and a
//                                      refusal leaves the parent max(rate * p - q, 0)     (arXiv 2505.12398)
//   typical                            p > min(epsilon, delta * exp(-entropy of p))         (arXiv 2401.10774)
#pragma once

#include "../sampling_method.h"
#include "draft_tree.h"
#include "target_row.h"

namespace mtp_ext {

template <typename scalar_t>
struct SamplingRequest {
  int64_t vocab;
  int64_t node_stride;           // of the logits, in elements
  int64_t draft_stride;          // the same
  const scalar_t* logits;        // [nodes, vocab]
  const float* uniforms;         // [nodes + 1], the last one for the next token
  const float* draft_log_probs;  // [q_rows, vocab]
  const int64_t* draft_rows;     // [nodes]
  TargetLimits limits;
  double epsilon, delta;
};

template <typename scalar_t>
Verdict verify_by_sampling(SamplingMethod method, const DraftTree& tree, const SamplingRequest<scalar_t>& request,
                           const ParallelFor& parallel);

}  // namespace mtp_ext
