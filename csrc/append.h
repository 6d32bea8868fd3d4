// append_: the nodes' keys and values, written into their logical rows of the cache.
//   key[row prefix_lengths[b] + i] = new_key[b, i], value likewise                     for i < node_counts[b]
// key, value as in tree_attention.h; new_key, new_value [batch, nodes, kv_heads, dim].
#pragma once

#include "cache_rows.h"

namespace mtp_ext {

struct Append {
  int64_t batch, nodes;
  int64_t capacity;  // logical rows of a request
  CacheRows key, value, new_key, new_value;
  CachePages pages;
  const int64_t* prefix_lengths;  // [batch]
  const int64_t* node_counts;     // [batch]; null: all nodes
};

}  // namespace mtp_ext
