// commit_ on a CPU.
#include <cstring>

#include "../commit_checks.h"
#include "cache_values.h"
#include "parallel.h"

namespace mtp_ext {
namespace {

constexpr const char* kOp = "commit_";
constexpr size_t kAhead = 2;  // moves; the one so far ahead is fetched: half as long again without, at 4 KiB a row

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

// One row of one cache.
struct Move {
  const CacheRows* rows;
  char* target;
  const char* source;
};

// Rows lie too far apart for the hardware to foresee the next one.
void prefetch(const Move& move) {
  const CacheRows& rows = *move.rows;
  for (int64_t head = 0; head < rows.heads; ++head) {
    for (int64_t i = 0; i < rows.head_bytes; i += 64) {
      __builtin_prefetch(move.source + head * rows.head_stride + i, 0, 3);
      __builtin_prefetch(move.target + head * rows.head_stride + i, 1, 3);
    }
  }
}

void run(const std::vector<Move>& moves) {
  for (size_t i = 0; i < moves.size(); ++i) {
    if (i + kAhead < moves.size()) prefetch(moves[i + kAhead]);
    const CacheRows& rows = *moves[i].rows;
    for (int64_t head = 0; head < rows.heads; ++head) {
      std::memmove(moves[i].target + head * rows.head_stride, moves[i].source + head * rows.head_stride,
                   rows.head_bytes);
    }
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
  int64_t row_bytes = 0;
  for (const CommitLayer& layer : commit.layers) {
    for (const CacheRows& rows : {layer.key, layer.value}) {
      row_bytes = std::max(row_bytes, rows.heads * rows.head_bytes);
      caches.push_back(joined_heads(rows));
    }
  }
  const auto add_moves = [&](int64_t i, std::vector<Move>& moves) {
    const CacheRows& rows = caches[i / paths.batch];
    const CachePages& pages = commit.layers[i / paths.batch / 2].pages;
    const int64_t b = i % paths.batch;
    const int64_t* path = paths.nodes + b * paths.nodes_stride;
    const auto at = [&](int64_t row) {
      return rows.data + pages.page(b, row) * rows.page_stride + pages.place(row) * rows.row_stride;
    };
    for (int64_t j = 0; j < paths.lengths[b]; ++j) {
      if (path[j] != j)
        moves.push_back({&rows, at(paths.prefix_lengths[b] + j), at(paths.prefix_lengths[b] + path[j])});
    }
  };
  const int64_t items = static_cast<int64_t>(caches.size()) * paths.batch;
  parallel_ranges(items, longest * row_bytes / static_cast<int64_t>(sizeof(float)), [&](int64_t begin, int64_t end) {
    std::vector<Move> moves;
    for (int64_t i = begin; i < end; ++i) add_moves(i, moves);
    run(moves);
  });
  return new_lengths;
}

}  // namespace
}  // namespace mtp_ext

STABLE_TORCH_LIBRARY_IMPL(mtp_ext, CPU, m) { m.impl("commit_", TORCH_BOX(&mtp_ext::commit_cpu)); }
