#include "grid.h"
#include "mix_targets_kernel.cuh"

namespace mtp_ext::cuda {

template <typename scalar_t>
cudaError_t mix_targets(const MixTargetsParams<scalar_t>& params, cudaStream_t stream) {
  return launch_blocks(params.row_count,
                       [&](unsigned blocks) { mix_targets_kernel<<<blocks, kTargetThreads, 0, stream>>>(params); });
}

template cudaError_t mix_targets(const MixTargetsParams<float>&, cudaStream_t);
template cudaError_t mix_targets(const MixTargetsParams<bfloat16>&, cudaStream_t);
template cudaError_t mix_targets(const MixTargetsParams<float16>&, cudaStream_t);

}  // namespace mtp_ext::cuda
