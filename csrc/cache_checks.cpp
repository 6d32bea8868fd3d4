#include "cache_checks.h"

namespace mtp_ext {

CacheSizes check_cache(const char* op, const Tensor& key, const Tensor& value, int64_t batch, const Tensor& like,
                       const std::optional<Tensor>& page_table) {
  const Dimension first = page_table ? Dimension{"pages"} : Dimension{"batch", batch};
  const char* second = page_table ? "page_size" : "capacity";
  check_tensor(op, "key", key, {first, {second}, {"kv_heads"}, {"head_dim"}}, {like.scalar_type()}, like);
  const auto sizes = key.sizes();
  const int64_t pages = sizes[0], rows = sizes[1], kv_heads = sizes[2];
  check_tensor(op, "value", value, {{first.name, pages}, {second, rows}, {"kv_heads", kv_heads}, {"value_dim"}},
               {like.scalar_type()}, like);
  CacheSizes cache{rows, kv_heads, sizes[3], value.size(3)};
  if (!page_table) return cache;
  check_tensor(op, "page_table", *page_table, {{"batch", batch}, {"pages"}}, {kInt64}, like);
  cache.capacity = page_table->size(1) * rows;
  return cache;
}

void check_lengths(const char* op, const Tensor& prefix_lengths, const std::optional<Tensor>& node_counts,
                   int64_t batch, const Tensor& like) {
  check_tensor(op, "prefix_lengths", prefix_lengths, {{"batch", batch}}, {kInt64}, like);
  if (node_counts) check_tensor(op, "node_counts", *node_counts, {{"batch", batch}}, {kInt64}, like);
}

CacheRows written_rows(const Tensor& tensor) {
  CacheRows rows = read_rows(tensor);
  rows.data = static_cast<char*>(tensor.mutable_data_ptr());
  return rows;
}

CacheRows read_rows(const Tensor& tensor) {
  const auto bytes = static_cast<int64_t>(tensor.element_size());
  const auto sizes = tensor.sizes(), strides = tensor.strides();
  return {static_cast<char*>(const_cast<void*>(tensor.const_data_ptr())),
          strides[0] * bytes,
          strides[1] * bytes,
          strides[2] * bytes,
          sizes[2],
          sizes[3] * bytes};
}

CachePages cache_pages(const Tensor& key, const std::optional<Tensor>& page_table) {
  return {data_or_null(page_table), page_table ? page_table->stride(0) : 0, page_table ? page_table->size(1) : 1,
          key.size(0), key.size(1)};
}

}  // namespace mtp_ext
