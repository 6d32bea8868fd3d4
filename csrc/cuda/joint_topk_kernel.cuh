// Job: read every logit once, which the first pass does (branch_sums_kernel.cuh), and write 20 bytes a pair of the
// result. A block has a row. The first pass left the largest logit of each block of 512 columns. Each of these is
// itself a pair, so that the k-th best of them bounds the k best pairs from below, and only blocks whose largest
// reaches it are read again: about k, for each digit of the search and once more for the pairs, from the second-level
// cache. The winners alone are sorted.
#pragma once

#include "columns.cuh"
#include "joint_topk.h"
#include "winners.cuh"

namespace mtp_ext::cuda {

// A pair's log-probability is (logit - log_normalizer) + weight.
struct PairTerm {
  float log_normalizer, weight;

  __device__ PairTerm(const MixtureTerm& term, float base)
      : log_normalizer(term.log_normalizer), weight(base + term.octaves * static_cast<float>(kLn2)) {}
  __device__ float operator()(float logit) const { return (logit - log_normalizer) + weight; }
};

template <typename scalar_t>
__device__ void write_pairs(const JointTopKParams<scalar_t>& params, int64_t row, const Winners& winners, float rest) {
  for (int64_t i = threadIdx.x; i < params.k; i += kRowThreads) {
    const bool found = i < winners.count;
    const uint64_t priority = found ? winners.priorities[i] : 0;
    const int64_t pair = id_of(priority), out = row * params.k + i;
    params.log_probs[out] = found ? value_of(priority) : rest;
    params.branches[out] = found ? pair / params.vocab : -1;
    params.tokens[out] = found ? pair % params.vocab : -1;
  }
}

template <typename scalar_t>
__global__ void __launch_bounds__(kRowThreads, 1) joint_topk_kernel(const JointTopKParams<scalar_t> params) {
  extern __shared__ __align__(16) unsigned char shared[];  // the histogram, then the winners
  __shared__ RowScratch scratch;
  __shared__ int survivor_count, winner_count;
  ThresholdScratch& histogram = *reinterpret_cast<ThresholdScratch*>(shared);
  const int64_t row = blockIdx.x;
  const MixtureRow branches = params.rows[row];
  if (branches.state != RowState::kOrdinary || params.vocab == 0) {
    write_pairs(params, row, {nullptr, 0}, branches.state == RowState::kBroken && params.vocab > 0 ? kNaN : -kInfinity);
    return;
  }
  const MixtureTerm* terms = params.terms + branches.first;
  const float* maxima = params.block_maxima + branches.first * sum_blocks(params.vocab);
  uint32_t* survivors = params.survivors + branches.first * sum_blocks(params.vocab);
  const auto blocks = static_cast<uint32_t>(sum_blocks(params.vocab));
  const auto for_each_block = [&](const auto& visit) {  // by the best pair of each block
    for (int64_t i = threadIdx.x; i < branches.count * blocks; i += kRowThreads) {
      const MixtureTerm term = terms[i / blocks];
      visit(PairTerm(term, branches.base)(maxima[term.branch * blocks + i % blocks]), static_cast<uint32_t>(i));
    }
  };
  const auto for_each_pair = [&](const auto& visit) {  // of the blocks that survive
    const int count = survivor_count;
    for (int i = threadIdx.x / kWarp; i < count; i += kRowWarps) {
      const MixtureTerm term = terms[survivors[i] / blocks];
      const PairTerm log_prob(term, branches.base);
      const int64_t first = static_cast<int64_t>(survivors[i] % blocks) * kSumBlock;
      const Columns columns{static_cast<int>(first), static_cast<int>(min(first + kSumBlock, params.vocab))};
      const scalar_t* logits = params.logits + branches.offset + term.branch * params.branch_stride;
      visit_groups(logits, columns, [&](int column, const float (&x)[kGroup]) {
#pragma unroll
        for (int j = 0; j < kGroup; ++j) {
          visit(log_prob(x[j]), static_cast<uint32_t>(term.branch * params.vocab + column + j));
        }
      });
    }
  };
  float best = -kInfinity;
  for_each_block([&](float log_prob, uint32_t) { best = fmaxf(best, log_prob); });
  best = reduce_block(best, scratch.floats, Larger());
  const auto one = [](float, uint32_t) { return uint64_t{1}; };
  const uint64_t least = find_threshold(for_each_block, best, kLog2E, one, params.k, histogram, scratch);
  const float lowest = least == 0 ? -kInfinity : value_of(least);
  if (threadIdx.x == 0) survivor_count = 0;
  __syncthreads();
  for_each_block([&](float log_prob, uint32_t block) {
    if (log_prob > -kInfinity && log_prob >= lowest) survivors[atomicAdd(&survivor_count, 1)] = block;
  });
  __syncthreads();
  const uint64_t last = find_threshold(for_each_pair, best, kLog2E, one, params.k, histogram, scratch);
  const Winners winners = sort_winners(for_each_pair, last, params.capacity, shared,
                                       params.workspace + row * winner_workspace(params.capacity), winner_count);
  write_pairs(params, row, winners, -kInfinity);
}

}  // namespace mtp_ext::cuda
