#include "grid.h"
#include "tree_attention_kernel.cuh"
#include "tree_attention_merge.cuh"

namespace mtp_ext::cuda {

template <typename scalar_t, int kDim>
static cudaError_t attend(const TreeAttentionParams& p, cudaStream_t stream) {
  constexpr int kBytes = AttentionTiles<scalar_t, kDim>::kBytes;
  const auto kernel = tree_attention_kernel<scalar_t, kDim>;
  const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
  if (error != cudaSuccess) return error;
  return launch_blocks(p.items * p.parts,
                       [&](unsigned blocks) { kernel<<<blocks, kAttentionThreads, kBytes, stream>>>(p); });
}

template <typename scalar_t>
cudaError_t tree_attention(const TreeAttentionParams& p, cudaStream_t stream) {
  const int64_t dim = std::max(p.attention.head_dim, p.attention.value_dim);
  const cudaError_t error = dim <= 64    ? attend<scalar_t, 64>(p, stream)
                            : dim <= 128 ? attend<scalar_t, 128>(p, stream)
                                         : attend<scalar_t, 256>(p, stream);
  if (error != cudaSuccess || p.parts == 1) return error;
  const int64_t pieces = p.items * p.state_rows * ceil_div(p.attention.value_dim, kVector<scalar_t>);
  return launch_blocks(ceil_div(pieces, kMergeThreads), [&](unsigned blocks) {
    tree_attention_merge<scalar_t><<<blocks, kMergeThreads, 0, stream>>>(p);
  });
}

template cudaError_t tree_attention<float>(const TreeAttentionParams&, cudaStream_t);
template cudaError_t tree_attention<bfloat16>(const TreeAttentionParams&, cudaStream_t);
template cudaError_t tree_attention<float16>(const TreeAttentionParams&, cudaStream_t);

}  // namespace mtp_ext::cuda
