// The CPU kernel of csrc/tree_attention.h.
//
// The query heads of a group and the nodes of a tile are the rows of one matrix: all of them share a KV head. A task is
// such a tile, for some KV heads, against one part of the prefix, the last part with the tree's own nodes; parts depend
// on the length of the prefix alone, and their results are merged in order, so that neither threads nor neighbours
// change a bit.
#pragma once

#include <cstdint>
#include <vector>

#include "../number_types.h"
#include "../tree_attention.h"
#include "workspace.h"

namespace mtp_ext {

inline constexpr int64_t kKeyBlock = 128;        // keys that are multiplied at a time
inline constexpr int64_t kTileRows = 256;        // rows of the matrix, nodes x heads of a group, at most,
inline constexpr int64_t kTileFloats = 1 << 15;  // and numbers of a tile's result
inline constexpr int64_t kFewRows = 8;           // up to which they are multiplied from the keys' side
inline constexpr int64_t kPartRows = 1024;       // of the prefix, at least, in a part
inline constexpr int64_t kMostParts = 16;

// The nodes begin <= n < end of request b, and the query heads of the KV heads head_begin <= h < head_end. A KV head's
// result does not depend on the others: they are together because a row of the cache holds all of them.
struct AttentionTile {
  int64_t b, head_begin, head_end, begin, end;
};

// What a thread needs while it works on tasks, one after the other.
struct AttentionWorkspace {
  Workspace queries, scores, weights, keys, values;
};

// Unnormalised attention of a tile's rows over one part: out = sum_r 2^(score[r] - maximum) v[r], in octaves.
struct PartialState {
  float* out;      // [KV heads, state_rows, round_up(value_dim, 16)]
  float* maximum;  // [KV heads, state_rows], -inf where nothing was seen
  float* sum;      // [KV heads, state_rows]
};

int64_t nodes_per_tile(const TreeAttention& attention);

// Whether a request's tiles are multiplied from the keys' side: its last one, which may be small, like the others.
bool takes_few_rows(const TreeAttention& attention, int64_t b);

// The rows of a KV head that a tile's state has room for.
int64_t state_rows(const TreeAttention& attention, const AttentionTile& tile);
int64_t part_count(int64_t prefix);

// depths [batch, nodes]: -1 for padding.
std::vector<int32_t> node_depths(const TreeAttention& attention);

template <typename scalar_t>
void attend_part(const TreeAttention& attention, const scalar_t* query, const scalar_t* key, const scalar_t* value,
                 const int32_t* depths, const AttentionTile& tile, int64_t part, const PartialState& state,
                 AttentionWorkspace& workspace);

// Merges the parts of a tile in order and writes its rows of out and lse.
template <typename scalar_t>
void merge_parts(const TreeAttention& attention, const AttentionTile& tile, const std::vector<PartialState>& parts,
                 scalar_t* out, float* lse);

}  // namespace mtp_ext
