#include "tile_attention.h"

namespace mtp_ext {
namespace {

template <typename operand_t, typename scalar_t>
void attend_part_as(const TreeAttention& a, const scalar_t* query, const scalar_t* key, const scalar_t* value,
                    const int32_t* depths, const AttentionTile& tile, int64_t part, const PartialState& state,
                    AttentionWorkspace& workspace) {
  const int64_t prefix = a.prefix(tile.b);
  const int64_t parts = part_count(prefix);
  const int64_t part_rows = round_up(ceil_div(prefix, parts), kKeyBlock);
  TileAttention<scalar_t, operand_t> attention(a, key, value, depths, tile, state, workspace);
  attention.load_queries(query);
  attention.attend_prefix(std::min(prefix, part * part_rows), std::min(prefix, (part + 1) * part_rows));
  if (part == parts - 1) attention.attend_nodes();
  gemm_done(std::is_same_v<operand_t, bfloat16>);
}

}  // namespace

int64_t nodes_per_tile(const TreeAttention& attention) {
  return std::max<int64_t>(1, kTileRows / std::max<int64_t>(1, attention.group()));
}

int64_t part_count(int64_t prefix) { return std::max<int64_t>(1, std::min(kMostParts, ceil_div(prefix, kPartRows))); }

std::vector<int32_t> node_depths(const TreeAttention& a) {
  std::vector<int32_t> depths(a.batch * a.nodes, -1);
  for (int64_t b = 0; b < a.batch; ++b) {
    for (int64_t node = 0; node < a.count(b); ++node) {
      int32_t depth = static_cast<int32_t>(node);
      if (a.ancestors) {
        const int64_t* words = a.ancestors + b * a.ancestors_stride.batch + node * a.ancestors_stride.node;
        depth = -1;
        for (int64_t w = 0; w < a.words; ++w) depth += __builtin_popcountll(static_cast<uint64_t>(words[w]));
      }
      depths[b * a.nodes + node] = depth;
    }
  }
  return depths;
}

template <typename scalar_t>
void attend_part(const TreeAttention& attention, const scalar_t* query, const scalar_t* key, const scalar_t* value,
                 const int32_t* depths, const AttentionTile& tile, int64_t part, const PartialState& state,
                 AttentionWorkspace& workspace) {
  if constexpr (std::is_same_v<scalar_t, bfloat16>) {
    if (attention.bfloat16_products) {
      return attend_part_as<bfloat16>(attention, query, key, value, depths, tile, part, state, workspace);
    }
  }
  attend_part_as<float>(attention, query, key, value, depths, tile, part, state, workspace);
}

template <typename scalar_t>
void merge_parts(const TreeAttention& a, const AttentionTile& tile, const std::vector<PartialState>& parts,
                 scalar_t* out, float* lse) {
  const int64_t width = round_up(a.value_dim, 16);
  std::vector<float> factors(parts.size());
  const int64_t rows = (tile.end - tile.begin) * a.group();
  for (int64_t row = 0; row < (tile.head_end - tile.head_begin) * rows; ++row) {
    const int64_t head = (tile.head_begin + row / rows) * a.group() + row % a.group();
    const int64_t node = tile.begin + row % rows / a.group();
    const int64_t target = (tile.b * a.nodes + node) * a.heads + head;
    float largest = -kInfinity;
    bool sees = false;  // a sum of NaN has no maximum, and has been seen all the same
    for (const PartialState& part : parts) {
      largest = std::max(largest, part.maximum[row]);
      sees = sees || part.sum[row] != 0;
    }
    float total = 0;
    if (sees && a.sinks) {
      const float sink = a.sinks[head] * kLog2E;
      largest = std::max(largest, sink);
      total = std::exp2(sink - largest);
    }
    for (size_t i = 0; i < parts.size(); ++i) {
      const bool empty = parts[i].sum[row] == 0;
      factors[i] = empty ? 0.0f : parts[i].maximum[row] == largest ? 1.0f : std::exp2(parts[i].maximum[row] - largest);
      total += factors[i] * parts[i].sum[row];
    }
    const Floats scale = broadcast(sees ? 1 / total : 0.0f);
    for (int64_t d = 0; d < a.value_dim; d += kLanes) {
      Floats merged{};
      for (size_t i = 0; i < parts.size(); ++i) {
        merged = fma(broadcast(factors[i]), load(parts[i].out + row * width + d), merged);
      }
      store_lanes(out + target * a.value_dim + d, std::min(kLanes, a.value_dim - d), merged * scale);
    }
    lse[target] = sees ? static_cast<float>((largest + std::log2(double{total})) * kLn2) : -kInfinity;
  }
}

#define MTP_EXT_INSTANTIATE(scalar_t)                                                                                \
  template void attend_part(const TreeAttention&, const scalar_t*, const scalar_t*, const scalar_t*, const int32_t*, \
                            const AttentionTile&, int64_t, const PartialState&, AttentionWorkspace&);                \
  template void merge_parts(const TreeAttention&, const AttentionTile&, const std::vector<PartialState>&, scalar_t*, \
                            float*);
MTP_EXT_INSTANTIATE(float)
MTP_EXT_INSTANTIATE(bfloat16)
MTP_EXT_INSTANTIATE(float16)
#undef MTP_EXT_INSTANTIATE

}  // namespace mtp_ext
