// tree_attention on a CUDA device.
#include <tuple>

#include "../dispatch.h"
#include "../tree_attention_checks.h"
#include "cache_limits.h"
#include "launch.h"
#include "tree_attention.h"

namespace mtp_ext::cuda {
namespace {

constexpr const char* kOp = "tree_attention";
constexpr int64_t kStateBytes = 128 << 20;  // of partial states in memory at a time

bool in_vectors(const Tensor& tensor) {
  const auto bytes = static_cast<int64_t>(tensor.element_size());
  bool aligned = reinterpret_cast<intptr_t>(tensor.const_data_ptr()) % 16 == 0;
  for (int i = 0; i < 3; ++i) aligned = aligned && tensor.stride(i) * bytes % 16 == 0;
  return aligned;
}

std::tuple<Tensor, Tensor> run_tree_attention(const Tensor& query, const Tensor& key, const Tensor& value,
                                              const std::optional<Tensor>& ancestors, const Tensor& prefix_lengths,
                                              const std::optional<Tensor>& node_counts,
                                              const std::optional<Tensor>& starts,
                                              const std::optional<Tensor>& page_table, std::optional<double> scale,
                                              double softcap, std::optional<int64_t> window,
                                              const std::optional<Tensor>& sinks) {
  const TreeAttention a = check_tree_attention(query, key, value, ancestors, prefix_lengths, node_counts, starts,
                                               page_table, scale, softcap, window, sinks);
  const int64_t rows = a.nodes * (a.heads / a.kv_heads);
  check_rows(kOp, std::max(a.capacity, rows + kTileRows));
  const Launch launch(kOp, query);
  const Tensor out = new_empty(query, {a.batch, a.nodes, a.heads, a.value_dim}, query.scalar_type());
  const Tensor lse = new_empty(query, {a.batch, a.nodes, a.heads}, kFloat32);

  TreeAttentionParams p{};
  p.attention = a;
  p.query = query.const_data_ptr();
  p.key = key.const_data_ptr();
  p.value = value.const_data_ptr();
  p.out = out.mutable_data_ptr();
  p.lse = lse.mutable_data_ptr<float>();
  p.query_vectors = in_vectors(query);
  p.key_vectors = in_vectors(key);
  p.value_vectors = in_vectors(value);
  p.tiles = static_cast<int>(ceil_div(rows, kTileRows));
  p.most_parts = static_cast<int>(std::clamp<int64_t>(kManyBlocks / a.kv_heads, 1, kMostParts));
  p.parts = part_count(a.capacity, p.most_parts);
  p.state_rows = static_cast<int>(std::min<int64_t>(rows, kTileRows));
  p.state_width = static_cast<int>(round_up(a.value_dim, 8));
  p.status = launch.status;

  // Items whose states fit into memory at a time; the next ones take their place in the stream's order.
  const int64_t items = a.batch * a.kv_heads * p.tiles;
  int64_t step = items;
  Tensor states;
  if (p.parts > 1) {
    const int64_t item_rows = int64_t{p.parts} * p.state_rows;
    step = std::clamp<int64_t>(kStateBytes / (item_rows * (p.state_width + 2) * 4), 1, std::max<int64_t>(1, items));
    states = new_empty(query, {step * item_rows * (p.state_width + 2)}, kFloat32);
    p.state_out = states.mutable_data_ptr<float>();
    p.state_maximum = p.state_out + step * item_rows * p.state_width;
    p.state_sum = p.state_maximum + step * item_rows;
  }
  for (p.first_item = 0; p.first_item < items; p.first_item += p.items) {
    p.items = std::min(step, items - p.first_item);
    dispatch_logits(kOp, query, [&](const auto* data) {
      using scalar_t = std::remove_const_t<std::remove_pointer_t<decltype(data)>>;
      check_launch(kOp, tree_attention<scalar_t>(p, launch.stream));
    });
  }
  return {out, lse};
}

}  // namespace
}  // namespace mtp_ext::cuda

STABLE_TORCH_LIBRARY_IMPL(mtp_ext, MTP_EXT_CUDA_KEY, m) {
  m.impl("tree_attention", TORCH_BOX(&mtp_ext::cuda::run_tree_attention));
}
