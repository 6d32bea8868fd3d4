// Attention of a tree's nodes over a shared prefix and over their own ancestors:
//   score[n, r] = cap(scale * q[n] . k[r])                    r: logical row of the cache; prefix + j holds node j
//   out[n] = sum_r softmax(score[n])[r] * v[r],   lse[n] = log sum_r exp(score[n, r]) (+ the sink's logit)
// over the rows r that node n sees: of the prefix and of its ancestors, from row `start` on and within the window.
// query [batch, nodes, heads, head_dim]; key, value [batch, capacity, kv_heads, dim] or [page, page_size, kv_heads,
// dim]; ancestors [batch, nodes, words]; out [batch, nodes, heads, value_dim] in the query's type; lse [batch, nodes,
// heads].
#pragma once

#include "cache_rows.h"

namespace mtp_ext {

struct TreeAttention {
  // Sizes.
  int64_t batch, nodes, heads, kv_heads, head_dim, value_dim;
  int64_t words;     // of 64 ancestor bits a node
  int64_t capacity;  // logical rows of a request

  // Strides in elements. The last dimension is contiguous; `page` is the batch dimension where there are no pages.
  struct {
    int64_t batch, node, head;
  } query_stride, ancestors_stride;  // ancestors: head is unused
  struct {
    int64_t page, row, head;
  } key_stride, value_stride;

  // Per request; null where the option is absent.
  const int64_t* ancestors;       // null: node i sees nodes 0 to i
  const int64_t* prefix_lengths;  // [batch]
  const int64_t* node_counts;     // [batch]
  const int64_t* starts;          // [batch]
  const float* sinks;             // [heads]
  CachePages pages;

  float scale;
  float softcap;   // 0: none
  int64_t window;  // positions; 0: none

  bool bfloat16_products = false;  // whether this CPU multiplies bfloat16,
  bool matrix_tiles = false;       // and by tiles, for many rows

  int64_t group() const { return heads / kv_heads; }  // query heads that share a KV head
  int64_t prefix(int64_t b) const { return prefix_lengths[b]; }
  int64_t count(int64_t b) const { return node_counts ? node_counts[b] : nodes; }
  int64_t start(int64_t b) const { return starts ? starts[b] : 0; }
};

}  // namespace mtp_ext
