// The CUDA kernel of csrc/commit.h.
//
// The job: read and write the rows that move once, at most 2 * length * kv_heads * (head_dim + value_dim) numbers a
// request and layer. The kernel moves just these, 16 bytes at a time where rows start on 16 bytes, 2 elsewhere.
//
// A thread owns one column of 16 bytes of all rows of a request in one layer, and walks the path from the root: what it
// overwrites, nobody else reads, so that no thread waits for another. Rows are read kRowsAhead at a time before any of
// them is written: a row's source is never before its target, so that reading ahead meets only what was there before.
#pragma once

#include "../commit.h"
#include "cache_access.cuh"
#include "reduce.cuh"

namespace mtp_ext::cuda {

inline constexpr int kCommitLayers = 224;  // a launch: with the rest they fill the 4 KiB of a kernel's parameters
inline constexpr int kCommitThreads = 128;
inline constexpr int kRowsAhead = 4;

// Layers of one shape. Of `layer`, the data is unused.
struct CommitLayers {
  CommitPaths paths;
  CommitLayer layer;
  int64_t* new_lengths;  // [batch]
  Status status;
  int layers;
  bool key_vectors, value_vectors;
  char* keys[kCommitLayers];
  char* values[kCommitLayers];
};
static_assert(sizeof(CommitLayers) <= 4096, "the parameters of a kernel take 4 KiB");

// Whether the path of request b ascends from the root and stays within tree and cache. All lanes of a warp ask.
__device__ inline bool is_path(const CommitPaths& paths, int64_t b, const Status& status) {
  const int64_t prefix = paths.prefix_lengths[b];
  const int64_t length = paths.lengths[b];
  if (length < 0 || length > paths.width || prefix < 0) {
    report(status, Fault::kPath, b);
    return false;
  }
  const int64_t* path = paths.nodes + b * paths.nodes_stride;
  bool right = true;
  for (int64_t j = threadIdx.x % kWarp; j < length; j += kWarp) {
    const int64_t node = path[j];
    right = right && (j == 0 ? node == 0 : node > path[j - 1]) && node < paths.width && prefix < paths.capacity - node;
  }
  right = __all_sync(kAllOfWarp, right);
  if (!right) report(status, Fault::kPath, b);
  return right;
}

// Moves one column of a request's rows.
template <typename unit_t>
__device__ void move_column(const CommitPaths& paths, const CachePages& pages, const CacheRows& rows, char* data,
                            int64_t b, const Status& status) {
  const int units = static_cast<int>(rows.head_bytes / sizeof(unit_t));  // a head
  const int column = blockIdx.x * kCommitThreads + threadIdx.x;
  if (column >= rows.heads * units) return;
  data += column / units * rows.head_stride + column % units * static_cast<int64_t>(sizeof(unit_t));
  const int64_t prefix = paths.prefix_lengths[b];
  const int64_t length = paths.lengths[b];
  const int64_t* path = paths.nodes + b * paths.nodes_stride;
  const auto at = [&](int64_t row) -> unit_t* {
    const CachePlace place = place_of(pages, b, row, status);
    if (place.page < 0) return nullptr;
    return reinterpret_cast<unit_t*>(data + place.page * rows.page_stride + place.row * rows.row_stride);
  };
  for (int64_t first = 1; first < length; first += kRowsAhead) {
    unit_t moved[kRowsAhead];
    unit_t* targets[kRowsAhead] = {};
#pragma unroll
    for (int i = 0; i < kRowsAhead; ++i) {
      const int64_t j = first + i;
      if (j >= length || path[j] == j) continue;
      const unit_t* source = at(prefix + path[j]);
      targets[i] = at(prefix + j);
      if (source) {
        moved[i] = *source;
      } else {
        targets[i] = nullptr;
      }
    }
#pragma unroll
    for (int i = 0; i < kRowsAhead; ++i) {
      if (targets[i]) *targets[i] = moved[i];
    }
  }
}

// Grid: columns, then keys and values of each layer, then requests.
__global__ void __launch_bounds__(kCommitThreads, 4) commit_kernel(const __grid_constant__ CommitLayers c) {
  const int layer = blockIdx.y / 2;
  const bool of_values = blockIdx.y % 2;
  for (int64_t b = blockIdx.z; b < c.paths.batch; b += gridDim.z) {
    const bool moves = is_path(c.paths, b, c.status);
    if (blockIdx.x == 0 && blockIdx.y == 0 && threadIdx.x == 0) {
      c.new_lengths[b] = c.paths.prefix_lengths[b] + (moves ? c.paths.lengths[b] : 0);
    }
    if (!moves || layer >= c.layers) continue;
    const CacheRows& rows = of_values ? c.layer.value : c.layer.key;
    char* data = of_values ? c.values[layer] : c.keys[layer];
    if (of_values ? c.value_vectors : c.key_vectors) {
      move_column<uint4>(c.paths, c.layer.pages, rows, data, b, c.status);
    } else {
      move_column<uint16_t>(c.paths, c.layer.pages, rows, data, b, c.status);
    }
  }
}

}  // namespace mtp_ext::cuda
