#include <algorithm>

#include "bound_blocks_kernel.cuh"
#include "grid.h"
#include "select_columns_kernel.cuh"

namespace mtp_ext::cuda {

cudaError_t bound_blocks(const BoundBlocksParams& params, cudaStream_t stream) {
  const int64_t warps = params.row_count * params.blocks;
  const cudaError_t error = launch_blocks(ceil_div(warps, kBoundThreads / kWarp), [&](unsigned blocks) {
    bound_blocks_kernel<<<blocks, kBoundThreads, 0, stream>>>(params);
  });
  if (error != cudaSuccess) return error;
  return launch_blocks(params.row_count,
                       [&](unsigned blocks) { find_thresholds_kernel<<<blocks, kRowThreads, 0, stream>>>(params); });
}

cudaError_t select_columns(const SelectColumnsParams& params, cudaStream_t stream) {
  const int64_t capacity = topk_capacity(params.k);
  const int64_t sorted = capacity <= kTopInShared ? capacity : 0;
  const size_t shared = std::max(sizeof(ThresholdScratch), sorted * sizeof(uint64_t));
  return launch_blocks(params.row_count, [&](unsigned blocks) {
    select_columns_kernel<<<blocks, kRowThreads, shared, stream>>>(params);
  });
}

}  // namespace mtp_ext::cuda
