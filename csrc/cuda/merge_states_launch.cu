#include "grid.h"
#include "merge_states.h"
#include "merge_states_kernel.cuh"

namespace mtp_ext::cuda {

template <typename scalar_t>
cudaError_t merge_states(const MergeStates& m, const scalar_t* out_a, const float* lse_a, const scalar_t* out_b,
                         const float* lse_b, scalar_t* out, float* lse, cudaStream_t stream) {
  const int64_t pieces = m.rows * ceil_div(m.value_dim, kVector<scalar_t>);
  return launch_blocks(ceil_div(pieces, kMergeThreads), [&](unsigned blocks) {
    merge_states_kernel<<<blocks, kMergeThreads, 0, stream>>>(m, out_a, lse_a, out_b, lse_b, out, lse);
  });
}

#define MTP_EXT_INSTANTIATE(scalar_t)                                                                                 \
  template cudaError_t merge_states(const MergeStates&, const scalar_t*, const float*, const scalar_t*, const float*, \
                                    scalar_t*, float*, cudaStream_t);
MTP_EXT_INSTANTIATE(float)
MTP_EXT_INSTANTIATE(bfloat16)
MTP_EXT_INSTANTIATE(float16)
#undef MTP_EXT_INSTANTIATE

}  // namespace mtp_ext::cuda
