// What a CUDA binding does around its launch: the device's guard, its current stream, the status word that the kernel
// gets, and a sentence for what the driver refuses. No call waits for the device.
#pragma once

#include <cuda_runtime_api.h>
#include <torch/csrc/stable/accelerator.h>

#include <optional>

#include "../checks.h"
#include "status.h"

// The dispatch key of the bindings. A build that executes the kernels' PTX on a CPU defines it as CPU; tensors are
// then on the CPU, and there is no device to guard and no stream.
#ifndef MTP_EXT_CUDA_KEY
#define MTP_EXT_CUDA_KEY CUDA
#endif

namespace mtp_ext {

class Launch {
 public:
  // On the device of `like`, which stays current while this lives. `op` must live for ever, as a literal does.
  Launch(const char* op, const Tensor& like);

  cudaStream_t stream = nullptr;
  Status status{};
  int multiprocessors = 0;

 private:
  std::optional<torch::stable::accelerator::DeviceGuard> guard_;
};

// Refuses in the op's name what a launcher returned, unless it is cudaSuccess.
void check_launch(const char* op, cudaError_t error);

}  // namespace mtp_ext
