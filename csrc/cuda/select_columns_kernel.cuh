// Job: read the mixed columns of the blocks that were mixed, write 12 k bytes a row. A block of threads has a row; it
// reads them from the second-level cache up to seven times, for the rank of the k-th, then sorts k priorities in shared
// memory.
#pragma once

#include "branch_sums.h"
#include "mixture_topk.h"
#include "small_sort.cuh"
#include "threshold_search.cuh"

namespace mtp_ext::cuda {

__global__ void __launch_bounds__(kRowThreads, 1) select_columns_kernel(const SelectColumnsParams params) {
  extern __shared__ __align__(16) unsigned char shared[];  // the histogram, then the winners
  __shared__ RowScratch sums;
  __shared__ int found;
  const int64_t row = blockIdx.x;
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const int64_t blocks = sum_blocks(params.vocab);
  const float* upper = params.upper + row * blocks;
  const float* mixed = params.mixed + row * params.vocab;
  const float threshold = params.thresholds[row];
  float* log_probs = params.log_probs + row * params.k;
  int64_t* columns = params.columns + row * params.k;
  const RowState state = params.rows[row].state;
  int count = 0;
  uint64_t* winners = nullptr;
  if (state == RowState::kOrdinary) {
    float best = -kInfinity;
    for (int64_t i = threadIdx.x; i < blocks; i += kRowThreads) best = fmaxf(best, upper[i]);
    best = reduce_block(best, sums.floats, Larger());
    const auto for_each = [&](const auto& visit) {
      for (int64_t block = warp; block < blocks; block += kRowWarps) {
        if (upper[block] < threshold) continue;
        const int64_t end = min((block + 1) * kSumBlock, params.vocab);
        for (int64_t i = block * kSumBlock + lane; i < end; i += kWarp) visit(mixed[i], static_cast<uint32_t>(i));
      }
    };
    const auto one = [](float, uint32_t) { return uint64_t{1}; };
    const uint64_t last =
        find_threshold(for_each, best, kLog2E, one, params.k, *reinterpret_cast<ThresholdScratch*>(shared), sums);
    const int64_t capacity = topk_capacity(params.k);
    winners = capacity <= kTopInShared ? reinterpret_cast<uint64_t*>(shared) : params.workspace + row * capacity;
    __syncthreads();  // the histogram is read no more
    if (threadIdx.x == 0) found = 0;
    __syncthreads();
    for_each([&](float value, uint32_t column) {
      const uint64_t priority = priority_of(value, column);
      if (value > -kInfinity && priority >= last) winners[atomicAdd(&found, 1)] = priority;
    });
    __syncthreads();
    count = found;
    int padded = 1;
    while (padded < count) padded *= 2;
    for (int i = count + threadIdx.x; i < padded; i += kRowThreads) winners[i] = 0;
    sort_descending(winners, padded);
  }
  for (int64_t i = threadIdx.x; i < params.k; i += kRowThreads) {
    const bool there = i < count;
    log_probs[i] = there ? value_of(winners[i]) : state == RowState::kBroken ? kNaN : -kInfinity;
    columns[i] = there ? static_cast<int64_t>(id_of(winners[i])) : -1;
  }
}

}  // namespace mtp_ext::cuda
