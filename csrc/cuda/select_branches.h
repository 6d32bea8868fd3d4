// The nucleus of a distribution: the fewest most probable tokens whose probabilities add up to top_p.
//   in the order (logit descending, token ascending), keep a token while the mass before it is below top_p
// Torch-free.
#pragma once

#include <cuda_runtime_api.h>

#include "../number_types.h"
#include "winners.h"

namespace mtp_ext::cuda {

template <typename scalar_t>
struct SelectBranchesParams {
  int64_t rows;
  int64_t vocab;
  int64_t stride;          // of the logits, in elements
  int64_t width;           // of the result
  double top_p;            // in (0, 1]; 1 keeps every token of non-zero probability
  float scale;             // octaves in a logit: log2(e) / temperature
  const scalar_t* logits;  // [rows, vocab]
  int64_t* tokens;         // [rows, width], padded with -1
  float* log_probs;        // [rows, width], nats, padded with -inf
  int64_t* counts;         // [rows]
  float* dropped_mass;     // [rows]
  uint64_t* workspace;     // [rows, winner_workspace(capacity)]
};

template <typename scalar_t>
cudaError_t select_branches(const SelectBranchesParams<scalar_t>& params, cudaStream_t stream);

}  // namespace mtp_ext::cuda
