// The launcher of merge_states on a CUDA device. Torch-free.
#pragma once

#include <cuda_runtime_api.h>

#include "../merge_states.h"

namespace mtp_ext::cuda {

// One launch; out and lse are contiguous.
template <typename scalar_t>
cudaError_t merge_states(const MergeStates& m, const scalar_t* out_a, const float* lse_a, const scalar_t* out_b,
                         const float* lse_b, scalar_t* out, float* lse, cudaStream_t stream);

}  // namespace mtp_ext::cuda
