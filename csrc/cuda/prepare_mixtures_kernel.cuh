// Job: for each branch read its weight and its chunks' sums, and write one term; for each row the logarithm of its
// weights' sum. Moves B (4 + 8 V / 4096 + 16) bytes, one block a row, one thread a branch.
#pragma once

#include "chunk_sum.cuh"
#include "mixture.h"
#include "reduce.cuh"
#include "status.cuh"

namespace mtp_ext::cuda {

inline constexpr int kPrepareThreads = 256;
inline constexpr float kNatsPerOctave = static_cast<float>(kLn2);
// What the largest weight of a row counts while they are added up as integers: the sum is then the same in any order,
// whichever threads the branches fall to. Fits kMostBranches.
inline constexpr float kUnitWeight = 1ull << 40;

// Whether indptr is one. A block looks at all of it: a wrong one makes every row NaN, as the whole call is refused on a
// CPU, and rows cannot share branches.
__device__ inline bool check_indptr(const BranchLayout& layout, const Status& status) {
  int64_t wrong = -1;
  for (int64_t i = threadIdx.x; i <= layout.rows; i += kPrepareThreads) {
    const int64_t end = layout.indptr[i];
    const int64_t least = i == 0 ? 0 : layout.indptr[i - 1];
    const bool right = i == 0 ? end == 0 : end >= least;
    if (!right || (i == layout.rows && end != layout.branches)) wrong = i;
  }
  if (wrong >= 0) report(status, Fault::kIndptr, wrong);
  return !__syncthreads_or(wrong >= 0);
}

// The log-normaliser of a branch as a float and what that float has rounded away, nats. NaN where all its logits are
// -inf or one is NaN or +inf.
struct Normalizer {
  float value, lost;
};

__device__ inline Normalizer normalizer_of(const PrepareMixturesParams& params, int64_t branch) {
  if (!params.normalizers) {
    const ChunkSum sum = join_chunks(params.sums + branch, sum_chunks(params.layout.vocab), params.layout.total());
    if (!(fabsf(sum.largest) < kInfinity)) return {kNaN, 0};
    const float rest = logf(sum.sum), value = sum.largest + rest;
    return {value, (sum.largest - value) + rest};
  }
  const double* pair = params.normalizers + branch * params.normalizer_stride;
  if (!(fabs(pair[1]) < kInfinity)) return {kNaN, 0};
  const auto value = static_cast<float>(pair[0] + pair[1]);
  return {value, static_cast<float>((pair[0] - value) + pair[1])};
}

// The number of threads before this one whose flag is set, and of all of them; `scratch` [warps + 1] is shared.
__device__ inline int2 rank_of(bool flag, int* scratch) {
  const unsigned votes = __ballot_sync(kAllOfWarp, flag);
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  __syncthreads();
  if (lane == 0) scratch[warp] = __popc(votes);
  __syncthreads();
  int before = __popc(votes & ((1u << lane) - 1)), all = 0;
  for (int i = 0; i < kPrepareThreads / kWarp; ++i) {
    if (i < warp) before += scratch[i];
    all += scratch[i];
  }
  return {before, all};
}

__global__ void __launch_bounds__(kPrepareThreads) prepare_mixtures_kernel(const PrepareMixturesParams params) {
  __shared__ float floats[kPrepareThreads / kWarp];
  __shared__ uint64_t totals[kPrepareThreads / kWarp];
  __shared__ int counts[kPrepareThreads / kWarp];
  const BranchLayout& layout = params.layout;
  const int64_t row = blockIdx.x;
  if (layout.indptr && !check_indptr(layout, params.status)) {
    if (threadIdx.x == 0) params.rows[row] = {0, 0, 0, 0, RowState::kBroken};
    return;
  }
  const int64_t begin = layout.begin(row), end = layout.end(row);
  const float* weights = params.log_weights + (layout.indptr ? 0 : row * (params.weight_row_stride - layout.branches));

  float largest = -kInfinity;
  bool broken = false;
  for (int64_t branch = begin + threadIdx.x; branch < end; branch += kPrepareThreads) {
    const float weight = weights[branch];
    broken = broken || !(weight < kInfinity);
    largest = fmaxf(largest, weight);
  }
  largest = reduce_block(largest, floats, Larger());
  float base = largest;
  if (params.renormalize) {
    uint64_t total = 0;
    for (int64_t branch = begin + threadIdx.x; branch < end; branch += kPrepareThreads) {
      const float weight = weights[branch];
      if (weight != -kInfinity) total += __float2ull_rn(expf(weight - largest) * kUnitWeight);
    }
    base = -logf(static_cast<float>(reduce_block(total, totals, Add())) / kUnitWeight);
  }

  int64_t count = 0;
  for (int64_t first = begin; first < end; first += kPrepareThreads) {
    const int64_t branch = first + threadIdx.x;
    const float weight = branch < end ? weights[branch] : -kInfinity;
    const bool live = weight != -kInfinity;
    const int2 rank = rank_of(live, counts);
    if (live) {
      const Normalizer normalizer = normalizer_of(params, branch);
      broken = broken || isnan(normalizer.value);
      const float octaves = (weight - largest - normalizer.lost) / kNatsPerOctave;
      params.terms[begin + count + rank.x] = {branch - begin, normalizer.value, octaves};
    }
    count += rank.y;
  }
  const bool any_broken = __syncthreads_or(broken);
  if (threadIdx.x > 0) return;
  const RowState state = any_broken ? RowState::kBroken : count == 0 ? RowState::kEmpty : RowState::kOrdinary;
  params.rows[row] = {begin, layout.row_offset(row), count, base, state};
}

}  // namespace mtp_ext::cuda
