// commit_ on a CPU.
#include <cstring>

#include "../commit_checks.h"
#include "cache_values.h"
#include "parallel.h"

namespace mtp_ext {
namespace {

constexpr const char* kOp = "commit_";
constexpr int64_t kAhead = 2;  // rows; the one so far ahead is fetched: half as long again without, at 4 KiB a row

void check_paths(const CommitPaths& paths) {
  for (int64_t b = 0; b < paths.batch; ++b) {
    const int64_t prefix = paths.prefix_lengths[b];
    const int64_t length = paths.lengths[b];
    const int64_t* path = paths.nodes + b * paths.nodes_stride;
    if (length < 0 || length > paths.width)
      refuse(kOp, "lengths must be from 0 to ", paths.width, ", got lengths[", b, "]=", length);
    if (prefix < 0) refuse(kOp, "prefix_lengths must be at least 0, got prefix_lengths[", b, "]=", prefix);
    for (int64_t j = 0; j < length; ++j) {
      const int64_t least = j == 0 ? 0 : path[j - 1] + 1;
      const int64_t most = j == 0 ? 0 : paths.width - 1;
      if (path[j] < least || path[j] > most) {
        refuse(kOp, "nodes must ascend from 0 to at most ", paths.width - 1, ", got nodes[", b, ", ", j, "]=", path[j]);
      }
    }
    if (length > 0 && prefix >= paths.capacity - path[length - 1]) {
      refuse(kOp, "the cache must hold prefix and nodes, got capacity ", paths.capacity, " for prefix_lengths[", b,
             "]=", prefix, " and node ", path[length - 1]);
    }
  }
}

// Where the heads of a row are one piece, they are moved as one.
CacheRows joined_heads(CacheRows rows) {
  if (rows.head_stride == rows.head_bytes) {
    rows.head_bytes *= rows.heads;
    rows.heads = 1;
  }
  return rows;
}

// Rows lie too far apart for the hardware to foresee the next one.
void prefetch(const CacheRows& rows, const char* target, const char* source) {
  for (int64_t head = 0; head < rows.heads; ++head) {
    for (int64_t i = 0; i < rows.head_bytes; i += 64) {
      __builtin_prefetch(source + head * rows.head_stride + i, 0, 3);
      __builtin_prefetch(target + head * rows.head_stride + i, 1, 3);
    }
  }
}

void move(const CacheRows& rows, char* target, const char* source) {
  for (int64_t head = 0; head < rows.heads; ++head) {
    std::memmove(target + head * rows.head_stride, source + head * rows.head_stride, rows.head_bytes);
  }
}

Tensor commit_cpu(const std::vector<Tensor>& keys, const std::vector<Tensor>& values, const Tensor& prefix_lengths,
                  const Tensor& nodes, const Tensor& lengths, const std::optional<Tensor>& page_table) {
  const Commit commit = check_commit(keys, values, prefix_lengths, nodes, lengths, page_table);
  const CommitPaths& paths = commit.paths;
  for (const CommitLayer& layer : commit.layers) check_page_values(kOp, layer.pages, paths.batch);
  check_paths(paths);

  const Tensor new_lengths = new_empty(nodes, {paths.batch}, kInt64);
  int64_t longest = 0;
  for (int64_t b = 0; b < paths.batch; ++b) {
    new_lengths.mutable_data_ptr<int64_t>()[b] = paths.prefix_lengths[b] + paths.lengths[b];
    longest = std::max(longest, paths.lengths[b]);
  }
  std::vector<CacheRows> caches;  // keys and values of each layer
  int64_t row_numbers = 0;
  for (size_t layer = 0; layer < keys.size(); ++layer) {
    for (const Tensor* cache : {&keys[layer], &values[layer]}) {
      row_numbers = std::max(row_numbers, cache->size(2) * cache->size(3));
    }
    caches.push_back(joined_heads(commit.layers[layer].key));
    caches.push_back(joined_heads(commit.layers[layer].value));
  }
  parallel_items(static_cast<int64_t>(caches.size()) * paths.batch, longest * row_numbers, [&](int64_t i) {
    const CacheRows& rows = caches[i / paths.batch];
    const CachePages& pages = commit.layers[i / paths.batch / 2].pages;
    const int64_t b = i % paths.batch;
    const int64_t prefix = paths.prefix_lengths[b];
    const int64_t length = paths.lengths[b];
    const int64_t* path = paths.nodes + b * paths.nodes_stride;
    const auto at = [&](int64_t row) {
      return rows.data + pages.page(b, row) * rows.page_stride + pages.place(row) * rows.row_stride;
    };
    int64_t first = 1;  // that moves: from there on all do, since nodes ascend
    while (first < length && path[first] == first) ++first;
    for (int64_t j = first; j < length; ++j) {
      if (j + kAhead < length) prefetch(rows, at(prefix + j + kAhead), at(prefix + path[j + kAhead]));
      move(rows, at(prefix + j), at(prefix + path[j]));
    }
  });
  return new_lengths;
}

}  // namespace
}  // namespace mtp_ext

STABLE_TORCH_LIBRARY_IMPL(mtp_ext, CPU, m) { m.impl("commit_", TORCH_BOX(&mtp_ext::commit_cpu)); }
