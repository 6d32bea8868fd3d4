#include "grid.h"
#include "joint_topk_kernel.cuh"

namespace mtp_ext::cuda {

template <typename scalar_t>
cudaError_t joint_topk(const JointTopKParams<scalar_t>& params, cudaStream_t stream) {
  return launch_blocks(params.row_count, [&](unsigned blocks) {
    joint_topk_kernel<<<blocks, kRowThreads, winner_bytes(params.capacity), stream>>>(params);
  });
}

template cudaError_t joint_topk(const JointTopKParams<float>&, cudaStream_t);
template cudaError_t joint_topk(const JointTopKParams<bfloat16>&, cudaStream_t);
template cudaError_t joint_topk(const JointTopKParams<float16>&, cudaStream_t);

}  // namespace mtp_ext::cuda
