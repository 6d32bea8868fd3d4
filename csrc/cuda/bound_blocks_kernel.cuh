// Job: read the largest logit of each block of 512 columns of each branch, one exponential each; write 8 bytes a
// block. Moves about 1 / 512 of what `mix` would, and reads it again from the nearest cache, after the largest, for the
// sum. A warp has a block of columns; then a block of threads has a row and finds the k-th largest lower bound, in up
// to eight readings of 4 bytes a block.
#pragma once

#include "mix_kernel.cuh"
#include "mixture_topk.h"
#include "threshold_search.cuh"

namespace mtp_ext::cuda {

inline constexpr int kBoundThreads = 128;

// A bound and a mixture are rounded differently, each to within 1e-5 nats plus a few units in the last place.
__device__ inline float slack_of(float bound) { return 1e-5f + 1e-6f * fabsf(bound); }

__global__ void __launch_bounds__(kBoundThreads) bound_blocks_kernel(const BoundBlocksParams params) {
  const int lane = threadIdx.x % kWarp;
  const int64_t item = int64_t{blockIdx.x} * (kBoundThreads / kWarp) + threadIdx.x / kWarp;
  const int64_t row_number = item / params.blocks, block = item % params.blocks;
  if (row_number >= params.row_count) return;
  const MixtureRow row = params.rows[row_number];
  const MixtureTerm* terms = params.terms + row.first;
  const float* maxima = params.block_maxima + row.first * params.blocks + block;
  const int64_t count = row.state == RowState::kOrdinary ? row.count : 0;
  const auto nats = [&](int64_t b) { return nats_of(maxima[terms[b].branch * params.blocks], terms[b]); };
  float largest = -kInfinity;
  for (int64_t b = lane; b < count; b += kWarp) largest = fmaxf(largest, nats(b));
  largest = reduce_warp(largest, Larger());
  const float center = largest == -kInfinity ? 0.0f : largest;
  float total = 0;
  for (int64_t b = lane; b < count; b += kWarp) total += expf(nats(b) - center);
  total = reduce_warp(total, Add());
  if (lane > 0) return;
  const float lower = row.base + largest, upper = (row.base + center) + logf(total);
  params.lower[item] = largest == -kInfinity ? -kInfinity : lower - slack_of(lower);
  params.upper[item] = largest == -kInfinity ? -kInfinity : upper + slack_of(upper);
}

__global__ void __launch_bounds__(kRowThreads) find_thresholds_kernel(const BoundBlocksParams params) {
  __shared__ ThresholdScratch scratch;
  __shared__ RowScratch sums;
  const float* lower = params.lower + blockIdx.x * params.blocks;
  float best = -kInfinity;
  for (int64_t i = threadIdx.x; i < params.blocks; i += kRowThreads) best = fmaxf(best, lower[i]);
  best = reduce_block(best, sums.floats, Larger());
  const auto for_each = [&](const auto& visit) {
    for (int64_t i = threadIdx.x; i < params.blocks; i += kRowThreads) visit(lower[i], static_cast<uint32_t>(i));
  };
  const auto one = [](float, uint32_t) { return uint64_t{1}; };
  const uint64_t last = find_threshold(for_each, best, kLog2E, one, params.k, scratch, sums);
  if (threadIdx.x == 0) params.thresholds[blockIdx.x] = last == 0 ? -kInfinity : value_of(last);
}

}  // namespace mtp_ext::cuda
