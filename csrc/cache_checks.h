// What the bindings of the ops on a KV cache check alike: shapes, dtypes and devices; mtp_ext/ops/cache_checks.py says
// the same sentences. Values are the CPU's to check (cpu/cache_values.h): elsewhere reading them would wait.
#pragma once

#include <optional>

#include "cache_rows.h"
#include "checks.h"

namespace mtp_ext {

struct CacheSizes {
  int64_t capacity;  // logical rows a request can have
  int64_t kv_heads, head_dim, value_dim;
};

// key and value [batch, capacity, kv_heads, dim], or [pages, page_size, kv_heads, dim] with a page table
// [batch, pages], in the dtype and on the device of `like`.
CacheSizes check_cache(const char* op, const Tensor& key, const Tensor& value, int64_t batch, const Tensor& like,
                       const std::optional<Tensor>& page_table);

// prefix_lengths and node_counts [batch].
void check_lengths(const char* op, const Tensor& prefix_lengths, const std::optional<Tensor>& node_counts,
                   int64_t batch, const Tensor& like);

inline const int64_t* data_or_null(const std::optional<Tensor>& tensor) {
  return tensor ? tensor->const_data_ptr<int64_t>() : nullptr;
}

// Of a tensor [page, row, head, dim], to be written to or to be read only.
CacheRows written_rows(const Tensor& tensor);
CacheRows read_rows(const Tensor& tensor);
CachePages cache_pages(const Tensor& key, const std::optional<Tensor>& page_table);

}  // namespace mtp_ext
