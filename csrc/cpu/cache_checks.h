// What the bindings of the ops on a KV cache check alike; mtp_ext/ops/cache_checks.py says the same sentences.
#pragma once

#include <optional>

#include "../checks.h"

namespace mtp_ext {

struct CacheSizes {
  int64_t capacity;  // logical rows a request can have
  int64_t kv_heads, head_dim, value_dim;
};

// key and value [batch, capacity, kv_heads, dim], or [pages, page_size, kv_heads, dim] with a page table
// [batch, pages], in the dtype and on the device of `like`.
CacheSizes check_cache(const char* op, const Tensor& key, const Tensor& value, int64_t batch, const Tensor& like,
                       const std::optional<Tensor>& page_table);

// Every request's prefix and nodes fit into its cache.
void check_lengths(const char* op, const Tensor& prefix_lengths, const std::optional<Tensor>& node_counts,
                   int64_t batch, int64_t nodes, int64_t capacity, const Tensor& like);

inline const int64_t* data_or_null(const std::optional<Tensor>& tensor) {
  return tensor ? tensor->const_data_ptr<int64_t>() : nullptr;
}

}  // namespace mtp_ext
