// The largest logit of a row and the sum of its exponentials against it, in one reading:
//   best = max_v x[v],   sum = sum_v 2^(scale * (x[v] - best))          scale in octaves per logit: log2(e) /
//   temperature
#pragma once

#include "columns.cuh"
#include "exponential.cuh"

namespace mtp_ext {

struct RowStatistics {
  float best;   // a logit
  double sum;   // at least 1
  bool broken;  // NaN or +inf is there, or nothing but -inf
};

// Shared memory of the reductions of a block that works on a row.
struct RowScratch {
  float floats[kRowWarps];
  double doubles[kRowWarps + 1];
  uint64_t integers[kRowWarps + 1];
};

// 2^(scale * (x - best)): the difference comes first, since large logits have no digits left for octaves.
__device__ inline float mass_of(float x, float best, float scale) { return exp2_approx((x - best) * scale); }

template <typename scalar_t>
__device__ RowStatistics row_statistics(const scalar_t* row, int columns, float scale, RowScratch& scratch) {
  float largest = -kInfinity, base = 0, sum = 0;  // base: `largest`, or 0 while there is none
  bool broken = false;
  visit_row(row, columns, [&](int, const float (&x)[kGroup]) {
    float above = largest;
#pragma unroll
    for (int i = 0; i < kGroup; ++i) {
      above = fmaxf(above, x[i]);
      broken |= x[i] != x[i];
    }
    if (above > largest) {
      sum *= mass_of(largest, above, scale);
      largest = base = above;
    }
    float part = 0;
#pragma unroll
    for (int i = 0; i < kGroup; ++i) part += mass_of(x[i], base, scale);
    sum += part;
  });
  const float best = reduce_block(largest, scratch.floats, Larger());
  broken = __syncthreads_or(broken || best == kInfinity || best == -kInfinity);
  const double scaled = largest == -kInfinity ? 0.0 : sum * mass_of(largest, best, scale);
  return {best, reduce_block(scaled, scratch.doubles, Add()), broken};
}

}  // namespace mtp_ext
