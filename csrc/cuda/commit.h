// The launcher of commit_ on a CUDA device. Torch-free.
#pragma once

#include <cuda_runtime_api.h>

#include "../commit.h"
#include "status.h"

namespace mtp_ext::cuda {

// One launch for each run of layers of the same shape, which for most models is all of them, up to kCommitLayers.
// new_lengths [batch].
cudaError_t commit(const Commit& commit, int64_t* new_lengths, const Status& status, cudaStream_t stream);

}  // namespace mtp_ext::cuda
