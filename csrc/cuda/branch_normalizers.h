// The log-normalisers of branches from the sums of their chunks: out[b] is a center and a rest, in nats,
//   log sum_v exp(logits[b, v]) = center + rest
// The rest is -inf where all logits are, and NaN where one is NaN or +inf. Torch-free.
#pragma once

#include "branch_sums.h"

namespace mtp_ext::cuda {

struct BranchNormalizersParams {
  int64_t branches;
  int64_t chunks;
  const ChunkSum* sums;  // [chunks, branches]
  double* out;           // [branches, 2]
};

cudaError_t branch_normalizers(const BranchNormalizersParams& params, cudaStream_t stream);

}  // namespace mtp_ext::cuda
