// The CUDA kernel of csrc/append.h.
//
// The job: read and write each number of new_key and new_value once, 2 * nodes * kv_heads * (head_dim + value_dim)
// numbers a request. The kernel moves just these bytes, 16 at a time where rows start on 16 bytes, 2 at a time
// elsewhere; neighbouring threads have neighbouring bytes. A block is one node's keys and values.
#pragma once

#include "../append.h"
#include "cache_access.cuh"

namespace mtp_ext::cuda {

inline constexpr int kAppendThreads = 128;

template <typename unit_t>
__device__ void copy_heads(const CacheRows& target, char* to, const CacheRows& source, const char* from) {
  const int units = static_cast<int>(source.head_bytes / sizeof(unit_t));  // a head
  for (int i = threadIdx.x; i < source.heads * units; i += kAppendThreads) {
    const int head = i / units, unit = i % units;
    reinterpret_cast<unit_t*>(to + head * target.head_stride)[unit] =
        reinterpret_cast<const unit_t*>(from + head * source.head_stride)[unit];
  }
}

__device__ inline void copy_row(const CacheRows& target, const CachePlace& to, const CacheRows& source,
                                const CachePlace& from, bool vectors) {
  if (vectors) {
    copy_heads<uint4>(target, row_address(target, to), source, row_address(source, from));
  } else {
    copy_heads<uint16_t>(target, row_address(target, to), source, row_address(source, from));
  }
}

__global__ void __launch_bounds__(kAppendThreads)
    append_kernel(const __grid_constant__ Append a, bool key_vectors, bool value_vectors, Status status) {
  const int64_t b = blockIdx.x / static_cast<uint32_t>(a.nodes);
  const int64_t node = blockIdx.x % static_cast<uint32_t>(a.nodes);
  const int64_t prefix = a.prefix_lengths[b];
  const int64_t count = a.node_counts ? a.node_counts[b] : a.nodes;
  if (!fits(prefix, count, a.nodes, a.capacity)) {
    if (threadIdx.x == 0) report(status, Fault::kLengths, b);
    return;
  }
  if (node >= count) return;
  const CachePlace place = place_of(a.pages, b, prefix + node, status);
  if (place.page < 0) return;
  copy_row(a.key, place, a.new_key, {b, node}, key_vectors);
  copy_row(a.value, place, a.new_value, {b, node}, value_vectors);
}

}  // namespace mtp_ext::cuda
