// Job: read each logit once, one exponential each; write 12 bytes for each token of the width. A block has a row. It
// reads the row from device memory once for the normaliser, and again, from the second-level cache unless all rows
// together are larger, up to six times for the rank of the last token that can be among `width` and once for the tokens
// before it. Those alone are sorted and added up. Histogram and winners share 16 to 32 KiB of shared memory.
#pragma once

#include "select_branches.h"
#include "winners.cuh"

namespace mtp_ext::cuda {

// A broken row is one branch that says so; the rest is padding.
template <typename scalar_t>
__device__ void pad_row(const SelectBranchesParams<scalar_t>& params, int64_t row, int64_t begin, float first) {
  for (int64_t i = begin + threadIdx.x; i < params.width; i += kRowThreads) {
    params.tokens[row * params.width + i] = -1;
    params.log_probs[row * params.width + i] = i == begin ? first : -kInfinity;
  }
}

// Writes the nucleus of the sorted winners of a row.
template <typename scalar_t>
__device__ void write_nucleus(const SelectBranchesParams<scalar_t>& params, int64_t row,
                              const RowStatistics& statistics, const Winners& winners, RowScratch& scratch) {
  __shared__ double nucleus_mass, log_sum;
  __shared__ int end;
  if (threadIdx.x == 0) log_sum = log2(statistics.sum);
  const double share = 1.0 / statistics.sum;
  const int count = winners.count;
  double before = 0;
  int kept = 0;
  bool full = false;
  for (int begin = 0; begin < count && !full; begin += kRowThreads) {
    __syncthreads();
    if (threadIdx.x == 0) end = count;
    const int i = begin + threadIdx.x;
    const float value = i < count ? value_of(winners.priorities[i]) : -kInfinity;
    const double mass = i < count ? mass_of(value, statistics.best, params.scale) * share : 0.0;
    const Prefix<double> prefix = scan_block(mass, scratch.doubles);
    const bool over = i < count && params.top_p < 1 && before + prefix.before >= params.top_p;
    if (over) atomicMin(&end, i);
    __syncthreads();
    kept = min(end, begin + kRowThreads);
    full = end < count;
    if (i < kept) {
      const double octaves = (static_cast<double>(value) - statistics.best) * params.scale - log_sum;
      params.tokens[row * params.width + i] = id_of(winners.priorities[i]);
      params.log_probs[row * params.width + i] = static_cast<float>(octaves * kLn2);
    }
    if (i == kept - 1) nucleus_mass = before + prefix.through;
    before += prefix.total;
  }
  pad_row(params, row, kept, -kInfinity);
  __syncthreads();
  if (threadIdx.x > 0) return;
  params.counts[row] = kept;
  params.dropped_mass[row] = static_cast<float>(fmax(0.0, 1.0 - nucleus_mass));
}

template <typename scalar_t>
__global__ void __launch_bounds__(kRowThreads, 1) select_branches_kernel(const SelectBranchesParams<scalar_t> params) {
  extern __shared__ __align__(16) unsigned char shared[];  // the histogram, then the winners
  __shared__ RowScratch scratch;
  __shared__ int found;
  const int64_t row = blockIdx.x;
  const scalar_t* logits = params.logits + row * params.stride;
  const int vocab = static_cast<int>(params.vocab);
  const RowStatistics statistics = row_statistics(logits, vocab, params.scale, scratch);
  if (statistics.broken) {
    pad_row(params, row, 0, kNaN);
    if (threadIdx.x == 0) {
      params.counts[row] = 1;
      params.dropped_mass[row] = kNaN;
    }
    return;
  }
  const auto for_each_token = [&](const auto& visit) {
    visit_row(logits, vocab, [&](int column, const float (&x)[kGroup]) {
#pragma unroll
      for (int i = 0; i < kGroup; ++i) visit(x[i], static_cast<uint32_t>(column + i));
    });
  };
  uint64_t last = 0;
  if (params.width < params.vocab) {
    const auto one = [](float, uint32_t) { return uint64_t{1}; };
    last = find_threshold(for_each_token, statistics.best, params.scale, one, params.width,
                          *reinterpret_cast<ThresholdScratch*>(shared), scratch);
  }
  const int64_t capacity = winner_capacity(params.vocab, params.width);
  const Winners winners =
      sort_winners(for_each_token, last, capacity, shared, params.workspace + row * winner_workspace(capacity), found);
  write_nucleus(params, row, statistics, winners, scratch);
}

}  // namespace mtp_ext::cuda
