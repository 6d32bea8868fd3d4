// What `tree_attention` takes, on any device; mtp_ext/ops/tree_attention.py says the same sentences.
#pragma once

#include <cmath>

#include "cache_checks.h"
#include "number_types.h"
#include "tree_attention.h"

namespace mtp_ext {

inline TreeAttention check_tree_attention(const Tensor& query, const Tensor& key, const Tensor& value,
                                          const std::optional<Tensor>& ancestors, const Tensor& prefix_lengths,
                                          const std::optional<Tensor>& node_counts, const std::optional<Tensor>& starts,
                                          const std::optional<Tensor>& page_table, std::optional<double> scale,
                                          double softcap, std::optional<int64_t> window,
                                          const std::optional<Tensor>& sinks) {
  constexpr const char* kOp = "tree_attention";
  check_tensor(kOp, "query", query, {{"batch"}, {"nodes"}, {"heads"}, {"head_dim"}},
               {ScalarType::Float, ScalarType::BFloat16, ScalarType::Half}, query);
  TreeAttention a{};
  a.batch = query.size(0);
  a.nodes = query.size(1);
  a.heads = query.size(2);
  a.head_dim = query.size(3);
  a.words = ceil_div(a.nodes, 64);
  a.query_stride = {query.stride(0), query.stride(1), query.stride(2)};
  const CacheSizes cache = check_cache(kOp, key, value, a.batch, query, page_table);
  if (cache.head_dim != a.head_dim) {
    refuse(kOp, "key must have the query's head_dim=", a.head_dim, ", got ", cache.head_dim);
  }
  a.capacity = cache.capacity;
  a.kv_heads = cache.kv_heads;
  a.value_dim = cache.value_dim;
  check_range(kOp, "head_dim", a.head_dim, 16, 256);
  check_range(kOp, "value_dim", a.value_dim, 16, 256);
  if (a.kv_heads == 0 || a.heads % a.kv_heads) {
    refuse(kOp, "heads must be a multiple of kv_heads, got ", a.heads, " and ", a.kv_heads);
  }
  a.key_stride = {key.stride(0), key.stride(1), key.stride(2)};
  a.value_stride = {value.stride(0), value.stride(1), value.stride(2)};
  a.pages = cache_pages(key, page_table);
  check_lengths(kOp, prefix_lengths, node_counts, a.batch, query);
  a.prefix_lengths = prefix_lengths.const_data_ptr<int64_t>();
  a.node_counts = data_or_null(node_counts);
  if (ancestors) {
    check_tensor(kOp, "ancestors", *ancestors, {{"batch", a.batch}, {"nodes", a.nodes}, {"words", a.words}}, {kInt64},
                 query);
    a.ancestors = ancestors->const_data_ptr<int64_t>();
    a.ancestors_stride = {ancestors->stride(0), ancestors->stride(1), 0};
  }
  if (starts) {
    check_tensor(kOp, "starts", *starts, {{"batch", a.batch}}, {kInt64}, query);
    a.starts = starts->const_data_ptr<int64_t>();
  }
  if (scale && !std::isfinite(*scale)) refuse(kOp, "scale must be a finite number, got ", *scale);
  if (softcap > 0 && std::isinf(softcap)) refuse(kOp, "softcap must be a finite number, got ", softcap);
  if (!(softcap >= 0)) refuse(kOp, "softcap must be at least 0, got ", softcap);
  if (window && *window < 1) refuse(kOp, "window must be at least 1, got ", *window);
  if (sinks) {
    check_tensor(kOp, "sinks", *sinks, {{"heads", a.heads}}, {kFloat32}, query);
    a.sinks = sinks->const_data_ptr<float>();
  }
  a.scale = static_cast<float>(scale.value_or(1 / std::sqrt(static_cast<double>(a.head_dim))));
  a.softcap = static_cast<float>(softcap);
  a.window = window.value_or(0);
  return a;
}

}  // namespace mtp_ext
