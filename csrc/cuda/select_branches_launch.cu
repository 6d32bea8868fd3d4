#include "grid.h"
#include "select_branches_kernel.cuh"

namespace mtp_ext::cuda {

template <typename scalar_t>
cudaError_t select_branches(const SelectBranchesParams<scalar_t>& params, cudaStream_t stream) {
  const size_t shared = winner_bytes(winner_capacity(params.vocab, params.width));
  return launch_blocks(
      params.rows, [&](unsigned blocks) { select_branches_kernel<<<blocks, kRowThreads, shared, stream>>>(params); });
}

template cudaError_t select_branches(const SelectBranchesParams<float>&, cudaStream_t);
template cudaError_t select_branches(const SelectBranchesParams<bfloat16>&, cudaStream_t);
template cudaError_t select_branches(const SelectBranchesParams<float16>&, cudaStream_t);

}  // namespace mtp_ext::cuda
