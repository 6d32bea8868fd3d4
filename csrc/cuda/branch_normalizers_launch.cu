#include "branch_normalizers_kernel.cuh"
#include "grid.h"

namespace mtp_ext::cuda {

cudaError_t branch_normalizers(const BranchNormalizersParams& params, cudaStream_t stream) {
  return launch_blocks(ceil_div(params.branches, kNormalizerThreads), [&](unsigned blocks) {
    branch_normalizers_kernel<<<blocks, kNormalizerThreads, 0, stream>>>(params);
  });
}

}  // namespace mtp_ext::cuda
