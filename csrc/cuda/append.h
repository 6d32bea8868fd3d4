// The launcher of append_ on a CUDA device. Torch-free.
#pragma once

#include <cuda_runtime_api.h>

#include "../append.h"
#include "status.h"

namespace mtp_ext::cuda {

// One launch, of a block for each node of each request: batch * nodes blocks, at most 2^31 - 1.
cudaError_t append(const Append& append, const Status& status, cudaStream_t stream);

}  // namespace mtp_ext::cuda
