#include <tuple>

#include "../dispatch.h"
#include "../tree_attention_checks.h"
#include "brgemm.h"
#include "cache_values.h"
#include "parallel.h"
#include "simd.h"
#include "tree_attention.h"

namespace mtp_ext {
namespace {

constexpr const char* kOp = "tree_attention";
constexpr int64_t kStateFloats = 5 << 17;  // of partial states in memory at a time: 2.5 MiB
constexpr int64_t kTasksPerThread = 4;     // so that no thread waits long for the last one

void check_ancestor_bits(const TreeAttention& a) {
  if (a.nodes % 64 == 0) return;
  for (int64_t b = 0; b < a.batch; ++b) {
    for (int64_t i = 0; i < a.nodes; ++i) {
      const int64_t word = a.ancestors[b * a.ancestors_stride.batch + i * a.ancestors_stride.node + a.words - 1];
      if (static_cast<uint64_t>(word) >> (a.nodes % 64)) {
        refuse(kOp, "ancestors must have no bits beyond the ", a.nodes, " nodes, got some in ancestors[", b, ", ", i,
               "]");
      }
    }
  }
}

void check_values(const TreeAttention& a) {
  check_page_values(kOp, a.pages, a.batch);
  check_length_values(kOp, a.prefix_lengths, a.node_counts, a.batch, a.nodes, a.capacity);
  if (a.ancestors) check_ancestor_bits(a);
  for (int64_t b = 0; a.starts && b < a.batch; ++b) {
    if (a.starts[b] < 0) refuse(kOp, "starts must be at least 0, got starts[", b, "]=", a.starts[b]);
  }
}

// The floats of a partial state: of the rows of a tile and one of its KV heads, against one part. It starts on a cache
// line.
int64_t state_floats(const TreeAttention& a, const AttentionTile& tile) {
  const int64_t rows = state_rows(a, tile);
  return rows * round_up(a.value_dim, 16) + 2 * round_up(rows, 16);
}

// The tiles of all requests, those of one request together. A tile takes several KV heads, so that whole rows of the
// cache are read at once; but not so many that threads would idle or states fill the memory.
std::vector<AttentionTile> make_tiles(const TreeAttention& a) {
  const int64_t step = nodes_per_tile(a);
  int64_t tasks = 0;  // of one KV head each
  for (int64_t b = 0; b < a.batch; ++b) {
    tasks += ceil_div(a.count(b), step) * part_count(a.prefix(b)) * a.kv_heads;
  }
  const int64_t for_threads = tasks / (kTasksPerThread * thread_count());
  std::vector<AttentionTile> tiles;
  for (int64_t b = 0; b < a.batch; ++b) {
    const AttentionTile largest{b, 0, 1, 0, std::min(step, a.count(b))};
    const int64_t queries = state_rows(a, largest) * a.head_dim;
    const int64_t floats = state_floats(a, largest) * part_count(a.prefix(b)) + queries;
    const int64_t for_memory = kStateFloats / 3 / std::max<int64_t>(1, floats);
    const int64_t heads = std::clamp<int64_t>(std::min(for_threads, for_memory), 1, a.kv_heads);
    for (int64_t head = 0; head < a.kv_heads; head += heads) {
      for (int64_t node = 0; node < a.count(b); node += step) {
        tiles.push_back({b, head, std::min(head + heads, a.kv_heads), node, std::min(node + step, a.count(b))});
      }
    }
  }
  return tiles;
}

// How many nodes each request has up to its last real one: how a request is cut must not depend on its neighbours.
std::vector<int64_t> real_counts(const TreeAttention& a, const std::vector<int32_t>& depths) {
  std::vector<int64_t> counts(a.batch, a.nodes);
  for (int64_t b = 0; b < a.batch; ++b) {
    while (counts[b] > 0 && depths[b * a.nodes + counts[b] - 1] < 0) --counts[b];
  }
  return counts;
}

template <typename scalar_t>
void run(TreeAttention a, const scalar_t* query, const scalar_t* key, const scalar_t* value, scalar_t* out,
         float* lse) {
  const std::vector<int32_t> depths = node_depths(a);
  const std::vector<int64_t> counts = real_counts(a, depths);
  a.node_counts = counts.data();
  for (int64_t b = 0; b < a.batch; ++b) {
    const int64_t first = (b * a.nodes + counts[b]) * a.heads;
    const int64_t rows = (a.nodes - counts[b]) * a.heads;
    std::fill_n(out + first * a.value_dim, rows * a.value_dim, scalar_t{});
    std::fill_n(lse + first, rows, -kInfinity);
  }
  const std::vector<AttentionTile> tiles = make_tiles(a);
  thread_local Workspace memory;
  for (size_t first = 0; first < tiles.size();) {
    // As many tiles as fit: their parts run side by side, whatever the number of heads.
    struct Task {
      size_t tile;
      int64_t part;
    };
    std::vector<Task> tasks;
    std::vector<int64_t> offsets;
    int64_t floats = 0;
    size_t last = first;
    for (; last < tiles.size(); ++last) {
      const AttentionTile& tile = tiles[last];
      const int64_t parts = part_count(a.prefix(tile.b));
      const int64_t part_floats = (tile.head_end - tile.head_begin) * state_floats(a, tile);
      if (last > first && floats + parts * part_floats > kStateFloats) break;
      for (int64_t part = 0; part < parts; ++part) {
        tasks.push_back({last, part});
        offsets.push_back(floats);
        floats += part_floats;
      }
    }
    float* state = memory.get<float>(floats);
    std::vector<std::vector<PartialState>> states(last - first);
    for (size_t i = 0; i < tasks.size(); ++i) {
      const AttentionTile& tile = tiles[tasks[i].tile];
      const int64_t rows = (tile.head_end - tile.head_begin) * state_rows(a, tile);
      float* out_rows = state + offsets[i];
      float* maximum = out_rows + rows * round_up(a.value_dim, 16);
      states[tasks[i].tile - first].push_back({out_rows, maximum, maximum + rows});
    }
    parallel_items(static_cast<int64_t>(tasks.size()), kGrain, [&](int64_t i) {
      thread_local AttentionWorkspace workspace;
      const Task& task = tasks[i];
      attend_part(a, query, key, value, depths.data(), tiles[task.tile], task.part,
                  states[task.tile - first][task.part], workspace);
    });
    parallel_items(static_cast<int64_t>(last - first), kGrain,
                   [&](int64_t i) { merge_parts(a, tiles[first + i], states[i], out, lse); });
    first = last;
  }
}

std::tuple<Tensor, Tensor> tree_attention_cpu(const Tensor& query, const Tensor& key, const Tensor& value,
                                              const std::optional<Tensor>& ancestors, const Tensor& prefix_lengths,
                                              const std::optional<Tensor>& node_counts,
                                              const std::optional<Tensor>& starts,
                                              const std::optional<Tensor>& page_table, std::optional<double> scale,
                                              double softcap, std::optional<int64_t> window,
                                              const std::optional<Tensor>& sinks) {
  TreeAttention a = check_tree_attention(query, key, value, ancestors, prefix_lengths, node_counts, starts, page_table,
                                         scale, softcap, window, sinks);
  check_values(a);
  if (query.scalar_type() == ScalarType::BFloat16) {
    a.bfloat16_products = has_bfloat16_dots();
    a.matrix_tiles = a.bfloat16_products && has_matrix_tiles();
  }
  const Tensor out = new_empty(query, {a.batch, a.nodes, a.heads, a.value_dim}, query.scalar_type());
  const Tensor lse = new_empty(query, {a.batch, a.nodes, a.heads}, kFloat32);
  dispatch_logits(kOp, query, [&](const auto* data) {
    using scalar_t = std::remove_const_t<std::remove_pointer_t<decltype(data)>>;
    run(a, data, static_cast<const scalar_t*>(key.const_data_ptr()),
        static_cast<const scalar_t*>(value.const_data_ptr()), static_cast<scalar_t*>(out.mutable_data_ptr()),
        lse.mutable_data_ptr<float>());
  });
  return {out, lse};
}

}  // namespace
}  // namespace mtp_ext

STABLE_TORCH_LIBRARY_IMPL(mtp_ext, CPU, m) { m.impl("tree_attention", TORCH_BOX(&mtp_ext::tree_attention_cpu)); }
