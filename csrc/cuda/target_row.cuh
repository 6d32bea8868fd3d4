// The target's distribution after one node, by temperature, top-k, top-p and min-p: the largest logit, the priority at
// which truncation ends, and the sum of the masses; no probability is written. The row is read once, and where it is
// truncated again for each digit of the search for its end.
#pragma once

#include "masses.cuh"
#include "residual.cuh"

namespace mtp_ext::cuda {

// The least logit whose probability is at least `min_p` of the best one's.
__device__ inline float least_logit(float best, float scale, float min_p) {
  const double octaves = log2(static_cast<double>(min_p));
  const auto fits = [&](float logit) { return (static_cast<double>(logit) - best) * scale >= octaves; };
  auto logit = static_cast<float>(best + octaves / scale);
  logit = fmaxf(logit, -3.4028234e38f);
  while (!fits(logit)) logit = nextafterf(logit, kInfinity);
  for (float lower; lower = nextafterf(logit, -kInfinity), lower > -kInfinity && fits(lower);) logit = lower;
  return logit;
}

// Reads the target after visit.node.
template <typename scalar_t>
__device__ void open_target(const SamplingRequest<scalar_t>& request, Visit& visit) {
  const SamplingLimits& limits = request.limits;
  const scalar_t* row = request.row(visit.node);
  const RowStatistics statistics = row_statistics(row, request.vocab, limits.scale, request.scratch.sums);
  visit.opened = true;
  visit.broken = statistics.broken;
  visit.best = statistics.best;
  visit.mass = statistics.sum;
  if (visit.broken) return;
  enum Stage { kTopK, kTopP, kMinP, kStages };
  for (int stage = kTopK; stage < kStages; ++stage) {
    uint64_t last = 0;
    if (stage == kMinP) {
      if (limits.min_p == 0) break;
      last = priority_of(least_logit(visit.best, limits.scale, limits.min_p), 0xffffffffu);
    } else {
      const bool by_mass = stage == kTopP;
      if (by_mass ? limits.top_p >= 1 : limits.top_k >= request.vocab) continue;
      const auto for_each_token = [&](const auto& each) {
        visit_row(row, request.vocab, [&](int column, const float (&x)[kGroup]) {
#pragma unroll
          for (int i = 0; i < kGroup; ++i) each(x[i], static_cast<uint32_t>(column + i));
        });
      };
      const auto weight_of = [&](float logit, uint32_t token) -> uint64_t {
        return by_mass ? fixed_mass(mass_before(request, visit, logit, token)) : 1;
      };
      const double target = by_mass ? ceil(limits.top_p * visit.mass * static_cast<double>(1ull << kMassBits))
                                    : static_cast<double>(limits.top_k);
      last = find_threshold(for_each_token, visit.best, limits.scale, weight_of, static_cast<uint64_t>(target),
                            request.scratch.threshold, request.scratch.sums);
    }
    if (last <= visit.last) continue;
    visit.last = last;
    visit.mass = sum_masses(request, visit, false).target;
  }
  visit.whole_mass = visit.mass;
}

}  // namespace mtp_ext::cuda
