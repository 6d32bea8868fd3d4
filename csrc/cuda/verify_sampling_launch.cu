#include "grid.h"
#include "verify_sampling_kernel.cuh"

namespace mtp_ext::cuda {

template <typename scalar_t>
cudaError_t verify_sampling(const VerifySamplingParams<scalar_t>& params, cudaStream_t stream) {
  return launch_blocks(params.drafts.batch,
                       [&](unsigned blocks) { verify_sampling_kernel<<<blocks, kRowThreads, 0, stream>>>(params); });
}

template cudaError_t verify_sampling(const VerifySamplingParams<float>&, cudaStream_t);
template cudaError_t verify_sampling(const VerifySamplingParams<bfloat16>&, cudaStream_t);
template cudaError_t verify_sampling(const VerifySamplingParams<float16>&, cudaStream_t);

}  // namespace mtp_ext::cuda
