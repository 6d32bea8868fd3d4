#include "grid.h"
#include "verify_greedy_kernel.cuh"

namespace mtp_ext::cuda {

template <typename scalar_t>
cudaError_t verify_greedy(const VerifyGreedyParams<scalar_t>& params, cudaStream_t stream) {
  return launch_blocks(params.drafts.batch,
                       [&](unsigned blocks) { verify_greedy_kernel<<<blocks, kRowThreads, 0, stream>>>(params); });
}

template cudaError_t verify_greedy(const VerifyGreedyParams<float>&, cudaStream_t);
template cudaError_t verify_greedy(const VerifyGreedyParams<bfloat16>&, cudaStream_t);
template cudaError_t verify_greedy(const VerifyGreedyParams<float16>&, cudaStream_t);
template cudaError_t verify_greedy(const VerifyGreedyParams<int64_t>&, cudaStream_t);

}  // namespace mtp_ext::cuda
