// append_: the nodes' keys and values, written into their logical rows of the cache. Each number is moved once.
#include <cstring>

#include "cache_checks.h"
#include "parallel.h"

namespace mtp_ext {
namespace {

constexpr const char* kOp = "append_";

void check_new(const char* argument, const Tensor& tensor, int64_t batch, int64_t nodes, int64_t kv_heads,
               const char* dim_name, int64_t dim, const Tensor& like) {
  check_tensor(kOp, argument, tensor, {{"batch", batch}, {"nodes", nodes}, {"kv_heads", kv_heads}, {dim_name, dim}},
               {like.scalar_type()}, like);
}

void append_cpu(const Tensor& key, const Tensor& value, const Tensor& new_key, const Tensor& new_value,
                const Tensor& prefix_lengths, const std::optional<Tensor>& page_table,
                const std::optional<Tensor>& node_counts) {
  check_tensor(kOp, "new_key", new_key, {{"batch"}, {"nodes"}, {"kv_heads"}, {"head_dim"}},
               {ScalarType::Float, ScalarType::BFloat16, ScalarType::Half}, new_key);
  const int64_t batch = new_key.size(0);
  const int64_t nodes = new_key.size(1);
  const CacheSizes cache = check_cache(kOp, key, value, batch, new_key, page_table);
  if (cache.kv_heads != new_key.size(2) || cache.head_dim != new_key.size(3)) {
    refuse(kOp, "new_key must have the cache's kv_heads=", cache.kv_heads, " and head_dim=", cache.head_dim, ", got ",
           new_key.size(2), " and ", new_key.size(3));
  }
  check_new("new_value", new_value, batch, nodes, cache.kv_heads, "value_dim", cache.value_dim, new_key);
  check_lengths(kOp, prefix_lengths, node_counts, batch, nodes, cache.capacity, new_key);

  const int64_t* prefixes = prefix_lengths.const_data_ptr<int64_t>();
  const int64_t* counts = data_or_null(node_counts);
  const int64_t* pages = data_or_null(page_table);
  const int64_t page_size = key.size(1);
  const auto bytes = static_cast<int64_t>(key.element_size());
  const auto copy_row = [&](const Tensor& cache_tensor, const Tensor& source, int64_t b, int64_t node) {
    const int64_t row = prefixes[b] + node;
    const int64_t page = pages ? pages[b * page_table->stride(0) + row / page_size] : b;
    auto* target = static_cast<char*>(cache_tensor.mutable_data_ptr()) +
                   (page * cache_tensor.stride(0) + (pages ? row % page_size : row) * cache_tensor.stride(1)) * bytes;
    const auto* from =
        static_cast<const char*>(source.const_data_ptr()) + (b * source.stride(0) + node * source.stride(1)) * bytes;
    for (int64_t head = 0; head < cache.kv_heads; ++head) {
      std::memcpy(target + head * cache_tensor.stride(2) * bytes, from + head * source.stride(2) * bytes,
                  source.size(3) * bytes);
    }
  };
  parallel_items(batch * nodes, cache.kv_heads * (cache.head_dim + cache.value_dim), [&](int64_t i) {
    const int64_t b = i / nodes;
    const int64_t node = i % nodes;
    if (counts && node >= counts[b]) return;
    copy_row(key, new_key, b, node);
    copy_row(value, new_value, b, node);
  });
}

}  // namespace
}  // namespace mtp_ext

STABLE_TORCH_LIBRARY_IMPL(mtp_ext, CPU, m) { m.impl("append_", TORCH_BOX(&mtp_ext::append_cpu)); }
