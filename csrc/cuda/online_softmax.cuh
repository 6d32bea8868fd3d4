// The softmax that sees its scores a few at a time (FlashAttention, arXiv 2205.14135), in octaves: weights are
// 2^(score - maximum), relative to the largest score so far.
#pragma once

#include "exponential.cuh"
#include "reduce.cuh"

namespace mtp_ext::cuda {

// Two rows of a lane, g and g + 8 of its warp. A sum is this lane's share until `join`.
struct RowStates {
  float maximum[2] = {-kInfinity, -kInfinity};
  float sum[2] = {0, 0};
};

// The four lanes of a row's quad.
template <typename Combine>
__device__ inline float reduce_quad(float x, Combine combine) {
  x = combine(x, __shfl_xor_sync(kAllOfWarp, x, 1));
  return combine(x, __shfl_xor_sync(kAllOfWarp, x, 2));
}

// Scores, in octaves and -inf where nothing is seen, become weights; out shrinks to the new maximum.
template <int kColumns, int kOut>
__device__ void weigh(float (&scores)[kColumns][4], RowStates& state, float (&out)[kOut][4]) {
#pragma unroll
  for (int row = 0; row < 2; ++row) {
    float largest = state.maximum[row];
#pragma unroll
    for (int n = 0; n < kColumns; ++n) largest = fmaxf(largest, fmaxf(scores[n][2 * row], scores[n][2 * row + 1]));
    largest = reduce_quad(largest, Larger{});
    const float reference = largest == -kInfinity ? 0.0f : largest;
    const float shrink = exp2_approx(state.maximum[row] - reference);
    float total = 0;
#pragma unroll
    for (int n = 0; n < kColumns; ++n) {
#pragma unroll
      for (int i = 2 * row; i < 2 * row + 2; ++i) {
        scores[n][i] = exp2_approx(scores[n][i] - reference);
        total += scores[n][i];
      }
    }
    state.maximum[row] = largest;
    state.sum[row] = state.sum[row] * shrink + total;
#pragma unroll
    for (int d = 0; d < kOut; ++d) {
      out[d][2 * row] *= shrink;
      out[d][2 * row + 1] *= shrink;
    }
  }
}

__device__ inline void join(RowStates& state) {
#pragma unroll
  for (int row = 0; row < 2; ++row) state.sum[row] = reduce_quad(state.sum[row], Add{});
}

// What an unnormalised row is multiplied by, and its LSE in nats. `sink`: its logit in nats, -inf where there is none.
struct Normalizer {
  float scale, lse;
};

__device__ inline Normalizer normalize(float maximum, float sum, float sink) {
  if (sum == 0) return {0, -kInfinity};  // nothing was seen; a sum of NaN was
  const float sink_octaves = sink * kLog2E;
  const float largest = fmaxf(maximum, sink_octaves);
  const float share = maximum == largest ? 1.0f : exp2_approx(maximum - largest);
  const float total = sum * share + (sink_octaves == -kInfinity ? 0.0f : exp2_approx(sink_octaves - largest));
  // In float64: a maximum of thousands of octaves and a fraction of one.
  return {share / total, static_cast<float>(double{largest} * kLn2 + double{logf(total)})};
}

}  // namespace mtp_ext::cuda
