#include "append.h"
#include "append_kernel.cuh"
#include "cache_moves.h"
#include "grid.h"

namespace mtp_ext::cuda {

cudaError_t append(const Append& a, const Status& status, cudaStream_t stream) {
  return launch_blocks(a.batch * a.nodes, [&](unsigned blocks) {
    append_kernel<<<blocks, kAppendThreads, 0, stream>>>(a, in_vectors(a.key) && in_vectors(a.new_key),
                                                         in_vectors(a.value) && in_vectors(a.new_value), status);
  });
}

}  // namespace mtp_ext::cuda
