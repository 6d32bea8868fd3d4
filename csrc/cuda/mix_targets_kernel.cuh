// Job: read one logit of each live branch of a row, wherever its sector lies, and its term: 48 B bytes a row; one
// exponential a branch. One block a row, which reads them once for the largest and again, from the nearest cache, for
// the sum.
#pragma once

#include "mix_kernel.cuh"
#include "mix_targets.h"
#include "status.cuh"

namespace mtp_ext::cuda {

inline constexpr int kTargetThreads = 256;

template <typename scalar_t>
__global__ void __launch_bounds__(kTargetThreads) mix_targets_kernel(const MixTargetsParams<scalar_t> params) {
  __shared__ float scratch[kTargetThreads / kWarp];
  const int64_t row_number = blockIdx.x;
  const int64_t target = params.targets[row_number];
  const MixtureRow row = params.rows[row_number];
  const bool inside = target >= 0 && target < params.vocab;
  if (!inside || row.state != RowState::kOrdinary) {
    if (threadIdx.x > 0) return;
    if (!inside) report(params.status, Fault::kTarget, row_number);
    params.out[row_number] = inside && row.state == RowState::kEmpty ? -kInfinity : kNaN;
    return;
  }
  const MixtureTerm* terms = params.terms + row.first;
  const scalar_t* logits = params.logits + row.offset + target;
  const auto nats = [&](int64_t b) {
    return nats_of(to_float(logits[terms[b].branch * params.branch_stride]), terms[b]);
  };
  float largest = -kInfinity;
  for (int64_t b = threadIdx.x; b < row.count; b += kTargetThreads) largest = fmaxf(largest, nats(b));
  largest = reduce_block(largest, scratch, Larger());
  const float base = largest == -kInfinity ? 0.0f : largest;
  float total = 0;
  for (int64_t b = threadIdx.x; b < row.count; b += kTargetThreads) total += expf(nats(b) - base);
  total = reduce_block(total, scratch, Add());
  if (threadIdx.x == 0) params.out[row_number] = (row.base + base) + logf(total);
}

}  // namespace mtp_ext::cuda
