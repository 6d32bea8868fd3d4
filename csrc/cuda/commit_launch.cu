#include <algorithm>

#include "cache_moves.h"
#include "commit.h"
#include "commit_kernel.cuh"

namespace mtp_ext::cuda {

static bool same_shape(const CacheRows& a, const CacheRows& b) {
  return a.page_stride == b.page_stride && a.row_stride == b.row_stride && a.head_stride == b.head_stride &&
         a.heads == b.heads && a.head_bytes == b.head_bytes && in_vectors(a) == in_vectors(b);
}

static bool same_shape(const CommitLayer& a, const CommitLayer& b) {
  return same_shape(a.key, b.key) && same_shape(a.value, b.value) && a.pages.pages == b.pages.pages &&
         a.pages.page_size == b.pages.page_size;
}

static int64_t columns(const CacheRows& rows, bool vectors) {
  return rows.heads * rows.head_bytes / (vectors ? 16 : 2);
}

static cudaError_t launch(const CommitLayers& c, cudaStream_t stream) {
  const int64_t most = std::max(columns(c.layer.key, c.key_vectors), columns(c.layer.value, c.value_vectors));
  const dim3 grid(static_cast<unsigned>(std::max<int64_t>(1, (most + kCommitThreads - 1) / kCommitThreads)),
                  std::max(1, 2 * c.layers), static_cast<unsigned>(std::min<int64_t>(c.paths.batch, 65535)));
  commit_kernel<<<grid, kCommitThreads, 0, stream>>>(c);
  return cudaGetLastError();
}

cudaError_t commit(const Commit& commit, int64_t* new_lengths, const Status& status, cudaStream_t stream) {
  if (commit.paths.batch == 0) return cudaSuccess;
  const auto& layers = commit.layers;
  size_t first = 0;
  do {  // without layers, the new lengths alone
    CommitLayers c{commit.paths, {}, new_lengths, status, 0, false, false, {}, {}};
    if (first < layers.size()) {
      c.layer = layers[first];
      c.key_vectors = in_vectors(c.layer.key);
      c.value_vectors = in_vectors(c.layer.value);
    }
    for (; first < layers.size() && c.layers < kCommitLayers && same_shape(layers[first], c.layer); ++first) {
      c.keys[c.layers] = layers[first].key.data;
      c.values[c.layers] = layers[first].value.data;
      ++c.layers;
    }
    if (const cudaError_t error = launch(c, stream); error != cudaSuccess) return error;
  } while (first < layers.size());
  return cudaSuccess;
}

}  // namespace mtp_ext::cuda
