// merge_states: attention over two disjoint sets of keys, joined.
//   lse = log(exp(lse_a) + exp(lse_b)),  out = exp(lse_a - lse) out_a + exp(lse_b - lse) out_b
// An lse of +inf, that of an infinite score, stays +inf, and the row is NaN, as the softmax of such a score is.
// out_a, out_b, out [batch, nodes, heads, value_dim]; lse_a, lse_b, lse [batch, nodes, heads] float32.
#pragma once

#include <cstdint>

namespace mtp_ext {

struct StateStride {  // elements; the last dimension of an out is contiguous
  int64_t batch, node, head;
};

struct MergeStates {
  int64_t batch, nodes, heads, value_dim;
  int64_t rows;                            // batch * nodes * heads
  StateStride out_a, lse_a, out_b, lse_b;  // the results are contiguous
};

}  // namespace mtp_ext
