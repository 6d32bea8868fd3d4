#include "cache_checks.h"

namespace mtp_ext {

CacheSizes check_cache(const char* op, const Tensor& key, const Tensor& value, int64_t batch, const Tensor& like,
                       const std::optional<Tensor>& page_table) {
  const Dimension first = page_table ? Dimension{"pages"} : Dimension{"batch", batch};
  const char* second = page_table ? "page_size" : "capacity";
  check_tensor(op, "key", key, {first, {second}, {"kv_heads"}, {"head_dim"}}, {like.scalar_type()}, like);
  const int64_t pages = key.size(0);
  const int64_t rows = key.size(1);
  check_tensor(op, "value", value, {{first.name, pages}, {second, rows}, {"kv_heads", key.size(2)}, {"value_dim"}},
               {like.scalar_type()}, like);
  CacheSizes sizes{rows, key.size(2), key.size(3), value.size(3)};
  if (!page_table) return sizes;
  check_tensor(op, "page_table", *page_table, {{"batch", batch}, {"pages"}}, {kInt64}, like);
  const int64_t columns = page_table->size(1);
  const int64_t* data = page_table->const_data_ptr<int64_t>();
  for (int64_t b = 0; b < batch; ++b) {
    for (int64_t i = 0; i < columns; ++i) {
      const int64_t page = data[b * page_table->stride(0) + i];
      if (page < 0 || page >= pages) {
        refuse(op, "page_table must be from 0 to ", pages - 1, ", got page_table[", b, ", ", i, "]=", page);
      }
    }
  }
  sizes.capacity = columns * rows;
  return sizes;
}

void check_lengths(const char* op, const Tensor& prefix_lengths, const std::optional<Tensor>& node_counts,
                   int64_t batch, int64_t nodes, int64_t capacity, const Tensor& like) {
  check_tensor(op, "prefix_lengths", prefix_lengths, {{"batch", batch}}, {kInt64}, like);
  if (node_counts) check_tensor(op, "node_counts", *node_counts, {{"batch", batch}}, {kInt64}, like);
  const int64_t* prefixes = prefix_lengths.const_data_ptr<int64_t>();
  const int64_t* counts = data_or_null(node_counts);
  for (int64_t b = 0; b < batch; ++b) {
    const int64_t count = counts ? counts[b] : nodes;
    if (count < 0 || count > nodes) {
      refuse(op, "node_counts must be from 0 to ", nodes, ", got node_counts[", b, "]=", count);
    }
    if (prefixes[b] < 0) refuse(op, "prefix_lengths must be at least 0, got prefix_lengths[", b, "]=", prefixes[b]);
    if (prefixes[b] > capacity - count) {
      refuse(op, "the cache must hold prefix and nodes, got capacity ", capacity, " for prefix_lengths[", b,
             "]=", prefixes[b], " and ", count, " nodes");
    }
  }
}

}  // namespace mtp_ext
