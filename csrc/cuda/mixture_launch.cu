#include "grid.h"
#include "mix_kernel.cuh"
#include "prepare_mixtures_kernel.cuh"

namespace mtp_ext::cuda {

cudaError_t prepare_mixtures(const PrepareMixturesParams& params, cudaStream_t stream) {
  return launch_blocks(params.layout.rows, [&](unsigned blocks) {
    prepare_mixtures_kernel<<<blocks, kPrepareThreads, 0, stream>>>(params);
  });
}

template <typename scalar_t>
cudaError_t mix(const MixParams<scalar_t>& params, cudaStream_t stream) {
  const int64_t tiles = params.row_count * ceil_div(params.vocab, kMixColumns<scalar_t>);
  if (params.branches_per_row > kMixGroup * kMixSlices / 2) {
    return launch_blocks(
        tiles, [&](unsigned blocks) { mix_kernel<scalar_t, true><<<blocks, kMixWarps * kWarp, 0, stream>>>(params); });
  }
  return launch_blocks(ceil_div(tiles, kMixWarps), [&](unsigned blocks) {
    mix_kernel<scalar_t, false><<<blocks, kMixWarps * kWarp, 0, stream>>>(params);
  });
}

template cudaError_t mix(const MixParams<float>&, cudaStream_t);
template cudaError_t mix(const MixParams<bfloat16>&, cudaStream_t);
template cudaError_t mix(const MixParams<float16>&, cudaStream_t);

}  // namespace mtp_ext::cuda
