#include "branch_sums_kernel.cuh"
#include "grid.h"

namespace mtp_ext::cuda {

template <typename scalar_t>
cudaError_t sum_branches(const BranchSumsParams<scalar_t>& params, cudaStream_t stream) {
  return launch_blocks(params.layout.total() * sum_chunks(params.layout.vocab),
                       [&](unsigned blocks) { sum_branches_kernel<<<blocks, kSumThreads, 0, stream>>>(params); });
}

template cudaError_t sum_branches(const BranchSumsParams<float>&, cudaStream_t);
template cudaError_t sum_branches(const BranchSumsParams<bfloat16>&, cudaStream_t);
template cudaError_t sum_branches(const BranchSumsParams<float16>&, cudaStream_t);

}  // namespace mtp_ext::cuda
