// One column of each row's mixture (mixture.h): out[r] is the log-probability of targets[r], NaN where that is no
// column. In log space throughout. Torch-free.
#pragma once

#include "mixture.h"

namespace mtp_ext::cuda {

template <typename scalar_t>
struct MixTargetsParams {
  const scalar_t* logits;
  const MixtureTerm* terms;
  const MixtureRow* rows;
  const int64_t* targets;  // [rows]
  int64_t row_count;
  int64_t branch_stride;  // of the logits, in elements
  int64_t vocab;
  float* out;  // [rows]
  Status status;
};

template <typename scalar_t>
cudaError_t mix_targets(const MixTargetsParams<scalar_t>& params, cudaStream_t stream);

}  // namespace mtp_ext::cuda
