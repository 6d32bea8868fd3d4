#include <type_traits>

#include "few_rows_attention.h"
#include "panel_attention.h"

namespace mtp_ext {
namespace {

template <typename Attention, typename scalar_t>
void attend_part_with(const TreeAttention& a, const scalar_t* query, TileRows<scalar_t>& rows, int64_t prefix,
                      int64_t part, const PartialState& state, AttentionWorkspace& workspace) {
  const int64_t parts = part_count(prefix);
  const int64_t part_rows = round_up(ceil_div(prefix, parts), kKeyBlock);
  Attention attention(a, rows, state, workspace);
  attention.load_queries(query);
  const auto attend = [&](const KeyRange& range) { attention.attend(range); };
  rows.for_prefix(std::min(prefix, part * part_rows), std::min(prefix, (part + 1) * part_rows), kKeyBlock, attend);
  if (part == parts - 1) rows.for_nodes(kKeyBlock, attend);
  attention.finish();
}

template <typename operand_t, typename scalar_t>
void attend_part_as(const TreeAttention& a, const scalar_t* query, const scalar_t* key, const scalar_t* value,
                    const int32_t* depths, const AttentionTile& tile, int64_t part, const PartialState& state,
                    AttentionWorkspace& workspace) {
  const int64_t state_count = (tile.head_end - tile.head_begin) * state_rows(a, tile);
  std::fill_n(state.out, state_count * round_up(a.value_dim, 16), 0.0f);
  std::fill_n(state.maximum, state_count, -kInfinity);
  std::fill_n(state.sum, state_count, 0.0f);
  TileRows<scalar_t> rows(a, key, value, depths, tile);
  const int64_t prefix = a.prefix(tile.b);
  if (takes_few_rows(a, tile.b)) {
    return attend_part_with<FewRowsAttention<scalar_t, operand_t>>(a, query, rows, prefix, part, state, workspace);
  }
  attend_part_with<PanelAttention<scalar_t, operand_t>>(a, query, rows, prefix, part, state, workspace);
}

}  // namespace

int64_t nodes_per_tile(const TreeAttention& attention) {
  const int64_t rows =
      std::min(kTileRows, kTileFloats / round_up(std::max(attention.head_dim, attention.value_dim), 16));
  return std::max<int64_t>(1, rows / std::max<int64_t>(1, attention.group()));
}

bool takes_few_rows(const TreeAttention& a, int64_t b) {
  return std::min(nodes_per_tile(a), a.count(b)) * a.group() <= kFewRows;
}

int64_t state_rows(const TreeAttention& a, const AttentionTile& tile) {
  const int64_t rows = (tile.end - tile.begin) * a.group();
  return takes_few_rows(a, tile.b) ? rows : round_up(rows, 16);
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
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<scalar_t, bfloat16>) {
    if (attention.bfloat16_products) {
      return attend_part_as<bfloat16>(attention, query, key, value, depths, tile, part, state, workspace);
    }
  }
#endif
  attend_part_as<float>(attention, query, key, value, depths, tile, part, state, workspace);
}

template <typename scalar_t>
void merge_parts(const TreeAttention& a, const AttentionTile& tile, const std::vector<PartialState>& parts,
                 scalar_t* out, float* lse) {
  const int64_t width = round_up(a.value_dim, 16);
  const int64_t rows = (tile.end - tile.begin) * a.group();
  const auto load_lanes = [](const float* data, int64_t count, float fill) {
    return count == kLanes ? load(data) : load_partial(data, count, fill);
  };
  for (int64_t head = tile.head_begin; head < tile.head_end; ++head) {
    for (int64_t first = 0; first < rows; first += kLanes) {
      const int64_t count = std::min(kLanes, rows - first);
      const int64_t at = (head - tile.head_begin) * state_rows(a, tile) + first;
      Floats largest = broadcast(-kInfinity);
      Integers sees{};  // a sum of NaN has no maximum, and has been seen all the same
      for (const PartialState& part : parts) {
        largest = max(load_lanes(part.maximum + at, count, -kInfinity), largest);
        sees |= load_lanes(part.sum + at, count, 0) != 0.0f;
      }
      Floats total{};
      if (a.sinks) {
        Floats sink;
        for (int64_t i = 0; i < kLanes; ++i) sink[i] = a.sinks[head * a.group() + (first + i) % a.group()] * kLog2E;
        largest = sees ? max(sink, largest) : largest;
        total = exp2(sink - largest);
      }
      float factors[kMostParts][kLanes], scales[kLanes], sums[kLanes];
      for (size_t p = 0; p < parts.size(); ++p) {
        const Floats sum = load_lanes(parts[p].sum + at, count, 0);
        const Floats factor = exp2(load_lanes(parts[p].maximum + at, count, -kInfinity) - largest);
        store(factors[p], sum == 0.0f ? Floats{} : factor);
        total = sum == 0.0f ? total : fma(factor, sum, total);
      }
      store(scales, sees ? 1.0f / total : Floats{});
      const Floats sum = fma(largest, broadcast(static_cast<float>(kLn2)), log(total));
      store(sums, sees ? total == total ? sum : total : broadcast(-kInfinity));
      for (int64_t i = 0; i < count; ++i) {
        const int64_t node = tile.begin + (first + i) / a.group(),
                      query_head = head * a.group() + (first + i) % a.group();
        const int64_t target = (tile.b * a.nodes + node) * a.heads + query_head;
        for (int64_t d = 0; d < a.value_dim; d += kLanes) {
          Floats merged{};
          for (size_t p = 0; p < parts.size(); ++p) {
            merged = fma(broadcast(factors[p][i]), load(parts[p].out + (at + i) * width + d), merged);
          }
          store_lanes(out + target * a.value_dim + d, std::min(kLanes, a.value_dim - d), merged * broadcast(scales[i]));
        }
        lse[target] = sums[i];
      }
    }
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
