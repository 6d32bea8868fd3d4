// What `append_` takes, on any device; mtp_ext/ops/append.py says the same sentences.
#pragma once

#include "append.h"
#include "cache_checks.h"

namespace mtp_ext {

inline Append check_append(const Tensor& key, const Tensor& value, const Tensor& new_key, const Tensor& new_value,
                           const Tensor& prefix_lengths, const std::optional<Tensor>& page_table,
                           const std::optional<Tensor>& node_counts) {
  constexpr const char* kOp = "append_";
  check_tensor(kOp, "new_key", new_key, {{"batch"}, {"nodes"}, {"kv_heads"}, {"head_dim"}},
               {ScalarType::Float, ScalarType::BFloat16, ScalarType::Half}, new_key);
  const int64_t batch = new_key.size(0);
  const int64_t nodes = new_key.size(1);
  const CacheSizes cache = check_cache(kOp, key, value, batch, new_key, page_table);
  if (cache.kv_heads != new_key.size(2) || cache.head_dim != new_key.size(3)) {
    refuse(kOp, "new_key must have the cache's kv_heads=", cache.kv_heads, " and head_dim=", cache.head_dim, ", got ",
           new_key.size(2), " and ", new_key.size(3));
  }
  check_tensor(kOp, "new_value", new_value,
               {{"batch", batch}, {"nodes", nodes}, {"kv_heads", cache.kv_heads}, {"value_dim", cache.value_dim}},
               {new_key.scalar_type()}, new_key);
  check_lengths(kOp, prefix_lengths, node_counts, batch, new_key);
  return {batch,
          nodes,
          cache.capacity,
          written_rows(key),
          written_rows(value),
          read_rows(new_key),
          read_rows(new_value),
          cache_pages(key, page_table),
          prefix_lengths.const_data_ptr<int64_t>(),
          data_or_null(node_counts)};
}

}  // namespace mtp_ext
