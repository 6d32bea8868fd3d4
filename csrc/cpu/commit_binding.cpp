// commit_: the accepted nodes' rows, moved together behind the prefix in every layer. Nodes on a path ascend, so that
// a row's source is never before its target, and a path that is walked from the root never overwrites what it still
// needs.
#include <cstring>
#include <vector>

#include "cache_checks.h"
#include "parallel.h"

namespace mtp_ext {
namespace {

constexpr const char* kOp = "commit_";
constexpr int64_t kAhead = 2;  // rows; the one so far ahead is fetched: half as long again without, at 4 KiB a row

void check_caches(const std::vector<Tensor>& keys, const std::vector<Tensor>& values, const Tensor& nodes,
                  const std::optional<Tensor>& page_table, int64_t& capacity) {
  const int64_t batch = nodes.size(0);
  for (size_t layer = 0; layer < keys.size(); ++layer) {
    const ScalarType dtype = keys[layer].scalar_type();
    if (dtype != ScalarType::Float && dtype != ScalarType::BFloat16 && dtype != ScalarType::Half) {
      check_tensor(kOp, "key", keys[layer], {{"batch", batch}, {"capacity"}, {"kv_heads"}, {"head_dim"}},
                   {ScalarType::Float, ScalarType::BFloat16, ScalarType::Half}, nodes);
    }
    capacity =
        std::min(capacity, check_cache(kOp, keys[layer], values[layer], batch, keys[layer], page_table).capacity);
    if (device_name(keys[layer]) != device_name(nodes)) {
      refuse(kOp, "keys and values must be on ", device_name(nodes), ", got ", device_name(keys[layer]));
    }
  }
}

void check_paths(const Tensor& prefix_lengths, const Tensor& nodes, const Tensor& lengths, int64_t capacity) {
  const int64_t width = nodes.size(1);
  for (int64_t b = 0; b < nodes.size(0); ++b) {
    const int64_t prefix = prefix_lengths.const_data_ptr<int64_t>()[b];
    const int64_t length = lengths.const_data_ptr<int64_t>()[b];
    const int64_t* path = nodes.const_data_ptr<int64_t>() + b * nodes.stride(0);
    if (length < 0 || length > width)
      refuse(kOp, "lengths must be from 0 to ", width, ", got lengths[", b, "]=", length);
    if (prefix < 0) refuse(kOp, "prefix_lengths must be at least 0, got prefix_lengths[", b, "]=", prefix);
    for (int64_t j = 0; j < length; ++j) {
      const int64_t least = j == 0 ? 0 : path[j - 1] + 1;
      const int64_t most = j == 0 ? 0 : width - 1;
      if (path[j] < least || path[j] > most) {
        refuse(kOp, "nodes must ascend from 0 to at most ", width - 1, ", got nodes[", b, ", ", j, "]=", path[j]);
      }
    }
    if (length > 0 && prefix >= capacity - path[length - 1]) {
      refuse(kOp, "the cache must hold prefix and nodes, got capacity ", capacity, " for prefix_lengths[", b,
             "]=", prefix, " and node ", path[length - 1]);
    }
  }
}

// One layer's keys or values.
struct Rows {
  char* data;
  int64_t page_stride, row_stride, head_stride;  // bytes
  int64_t heads, head_bytes;

  explicit Rows(const Tensor& cache) {
    const auto bytes = static_cast<int64_t>(cache.element_size());
    data = static_cast<char*>(cache.mutable_data_ptr());
    page_stride = cache.stride(0) * bytes;
    row_stride = cache.stride(1) * bytes;
    head_stride = cache.stride(2) * bytes;
    heads = cache.size(2);
    head_bytes = cache.size(3) * bytes;
    if (head_stride == head_bytes) {  // the heads of a row are one piece
      head_bytes *= heads;
      heads = 1;
    }
  }

  char* at(int64_t page, int64_t row) const { return data + page * page_stride + row * row_stride; }

  // Rows lie too far apart for the hardware to foresee the next one.
  void prefetch(const char* target, const char* source) const {
    for (int64_t head = 0; head < heads; ++head) {
      for (int64_t i = 0; i < head_bytes; i += 64) {
        __builtin_prefetch(source + head * head_stride + i, 0, 3);
        __builtin_prefetch(target + head * head_stride + i, 1, 3);
      }
    }
  }

  void move(char* target, const char* source) const {
    for (int64_t head = 0; head < heads; ++head) {
      std::memmove(target + head * head_stride, source + head * head_stride, head_bytes);
    }
  }
};

Tensor commit_cpu(const std::vector<Tensor>& keys, const std::vector<Tensor>& values, const Tensor& prefix_lengths,
                  const Tensor& nodes, const Tensor& lengths, const std::optional<Tensor>& page_table) {
  if (keys.size() != values.size()) {
    refuse(kOp, "keys and values must be of the same layers, got ", keys.size(), " and ", values.size());
  }
  check_tensor(kOp, "nodes", nodes, {{"batch"}, {"nodes"}}, {kInt64}, nodes);
  const int64_t batch = nodes.size(0);
  check_tensor(kOp, "prefix_lengths", prefix_lengths, {{"batch", batch}}, {kInt64}, nodes);
  check_tensor(kOp, "lengths", lengths, {{"batch", batch}}, {kInt64}, nodes);
  int64_t capacity = std::numeric_limits<int64_t>::max();
  check_caches(keys, values, nodes, page_table, capacity);
  check_paths(prefix_lengths, nodes, lengths, capacity);

  const Tensor new_lengths = new_empty(nodes, {batch}, kInt64);
  const int64_t* prefixes = prefix_lengths.const_data_ptr<int64_t>();
  const int64_t* counts = lengths.const_data_ptr<int64_t>();
  const int64_t* pages = data_or_null(page_table);
  int64_t longest = 0;
  for (int64_t b = 0; b < batch; ++b) {
    new_lengths.mutable_data_ptr<int64_t>()[b] = prefixes[b] + counts[b];
    longest = std::max(longest, counts[b]);
  }
  std::vector<Rows> caches;
  std::vector<int64_t> page_sizes;
  int64_t row_numbers = 0;
  for (size_t layer = 0; layer < keys.size(); ++layer) {
    for (const Tensor* cache : {&keys[layer], &values[layer]}) {
      caches.emplace_back(*cache);
      page_sizes.push_back(cache->size(1));
      row_numbers = std::max(row_numbers, cache->size(2) * cache->size(3));
    }
  }
  parallel_items(static_cast<int64_t>(caches.size()) * batch, longest * row_numbers, [&](int64_t i) {
    const Rows& rows = caches[i / batch];
    const int64_t page_size = page_sizes[i / batch];
    const int64_t b = i % batch;
    const int64_t* path = nodes.const_data_ptr<int64_t>() + b * nodes.stride(0);
    const auto at = [&](int64_t row) {
      if (!pages) return rows.at(b, row);
      return rows.at(pages[b * page_table->stride(0) + row / page_size], row % page_size);
    };
    int64_t first = 1;  // that moves: from there on all do, since nodes ascend
    while (first < counts[b] && path[first] == first) ++first;
    for (int64_t j = first; j < counts[b]; ++j) {
      if (j + kAhead < counts[b]) rows.prefetch(at(prefixes[b] + j + kAhead), at(prefixes[b] + path[j + kAhead]));
      rows.move(at(prefixes[b] + j), at(prefixes[b] + path[j]));
    }
  });
  return new_lengths;
}

}  // namespace
}  // namespace mtp_ext

STABLE_TORCH_LIBRARY_IMPL(mtp_ext, CPU, m) { m.impl("commit_", TORCH_BOX(&mtp_ext::commit_cpu)); }
