// append_ on a CPU. Each number is moved once.
#include <cstring>

#include "../append_checks.h"
#include "cache_values.h"
#include "parallel.h"

namespace mtp_ext {
namespace {

void append_cpu(const Tensor& key, const Tensor& value, const Tensor& new_key, const Tensor& new_value,
                const Tensor& prefix_lengths, const std::optional<Tensor>& page_table,
                const std::optional<Tensor>& node_counts) {
  const Append a = check_append(key, value, new_key, new_value, prefix_lengths, page_table, node_counts);
  check_page_values("append_", a.pages, a.batch);
  check_length_values("append_", a.prefix_lengths, a.node_counts, a.batch, a.nodes, a.capacity);

  const auto copy_row = [&](const CacheRows& cache, const CacheRows& source, int64_t b, int64_t node) {
    const int64_t row = a.prefix_lengths[b] + node;
    char* target = cache.data + a.pages.page(b, row) * cache.page_stride + a.pages.place(row) * cache.row_stride;
    const char* from = source.data + b * source.page_stride + node * source.row_stride;
    for (int64_t head = 0; head < cache.heads; ++head) {
      std::memcpy(target + head * cache.head_stride, from + head * source.head_stride, source.head_bytes);
    }
  };
  const int64_t numbers = new_key.size(2) * (new_key.size(3) + new_value.size(3));
  parallel_items(a.batch * a.nodes, numbers, [&](int64_t i) {
    const int64_t b = i / a.nodes;
    const int64_t node = i % a.nodes;
    if (a.node_counts && node >= a.node_counts[b]) return;
    copy_row(a.key, a.new_key, b, node);
    copy_row(a.value, a.new_value, b, node);
  });
}

}  // namespace
}  // namespace mtp_ext

STABLE_TORCH_LIBRARY_IMPL(mtp_ext, CPU, m) { m.impl("append_", TORCH_BOX(&mtp_ext::append_cpu)); }
