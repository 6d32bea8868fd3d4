// The CUDA side of csrc/tree_attention.h: how the work is cut, and the launchers. Torch-free.
//
// The rows of a tile are the (node, query head of a group) pairs of one KV head, kTileRows at a time. An item is a tile
// of one request and KV head; its prefix is cut into parts by its length alone, so that neither the batch nor the
// capacity changes a bit. A block is one part of an item, the last part with the tree's own nodes; where a request has
// several parts, a second kernel merges them in order.
#pragma once

#include <cuda_runtime_api.h>

#include <algorithm>

#include "../number_types.h"
#include "../tree_attention.h"
#include "status.h"

namespace mtp_ext::cuda {

inline constexpr int kTileRows = 64;
inline constexpr int kPartKeys = 256;  // of the prefix, at least, in a part
inline constexpr int kPartStep = 64;   // parts end at multiples of it
inline constexpr int kMostParts = 64;
inline constexpr int kManyBlocks = 256;  // of a request: parts beyond that would not fill a device any better

struct TreeAttentionParams {
  TreeAttention attention;
  const void* query;
  const void* key;
  const void* value;
  void* out;                                       // [batch, nodes, heads, value_dim], in the query's type
  float* lse;                                      // [batch, nodes, heads]
  bool query_vectors, key_vectors, value_vectors;  // whether rows start on 16 bytes

  int tiles;              // a request and KV head
  int parts, most_parts;  // that the capacity allows, and that any prefix has
  int64_t first_item, items;
  // Unnormalised attention of each part's rows: out = sum_r 2^(score[r] - maximum) v[r], in octaves.
  float* state_out;      // [items, parts, state_rows, state_width]
  float* state_maximum;  // [items, parts, state_rows], -inf where nothing was seen
  float* state_sum;      // [items, parts, state_rows]
  int state_rows, state_width;
  Status status;
};

constexpr int part_count(int64_t prefix, int most_parts) {
  const int64_t parts = ceil_div(prefix, kPartKeys);
  return static_cast<int>(parts < 1 ? 1 : parts > most_parts ? most_parts : parts);
}

// All items, and with parts > 1 the merge, for items first_item to first_item + items.
template <typename scalar_t>
cudaError_t tree_attention(const TreeAttentionParams& params, cudaStream_t stream);

}  // namespace mtp_ext::cuda
