// The size of a launch. Grids have one dimension, which goes further than the other two, and kernels find their place
// from blockIdx.x alone. Torch-free.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace mtp_ext {

inline constexpr int64_t kLargestGrid = INT32_MAX;

// Calls launch(blocks as a grid) unless there are none, or too many. What the driver said of it.
template <typename Body>
cudaError_t launch_blocks(int64_t blocks, Body&& launch) {
  if (blocks == 0) return cudaSuccess;
  if (blocks < 0 || blocks > kLargestGrid) return cudaErrorInvalidConfiguration;
  launch(static_cast<unsigned>(blocks));
  return cudaGetLastError();
}

}  // namespace mtp_ext
