// What the refusal of drafts leaves of the target's distribution after a node, without a vocabulary of numbers to keep:
//   each refusal makes  p' = max(rate * p - q, 0) / its sum,  and q' = q without the refused token, renormalised,
// so that after any number of them a token of mass m (before any refusal) has  max(m - taken * q, 0)  left, with one
// number `taken` for all tokens but the refused ones, whose q is 0 from then on: each keeps the number of its own time.
// Both rows are read again whenever a sum over the vocabulary is needed.
#pragma once

#include "sampling_request.cuh"

namespace mtp_ext::cuda {

__device__ inline float draft_probability(float log_prob) { return exp2_approx(log_prob * kLog2E); }

// Before any refusal; 0 where truncation dropped the token.
template <typename scalar_t>
__device__ inline float mass_before(const SamplingRequest<scalar_t>& request, const Visit& visit, float logit,
                                    int token) {
  if (logit == -kInfinity || (visit.last > 0 && priority_of(logit, token) < visit.last)) return 0;
  return mass_of(logit, visit.best, request.limits.scale);
}

__device__ inline float mass_left(float mass, float draft, float taken) {
  if (taken == kInfinity) return 0;
  return draft > 0 ? fmaxf(fmaf(-taken, draft, mass), 0.0f) : mass;
}

// Of a token that was refused below this node, the node that held it; otherwise -1. One thread.
template <typename scalar_t>
__device__ int refused_node(const SamplingRequest<scalar_t>& request, const Visit& visit, int token) {
  for (int i = visit.node + 1; i <= visit.child; ++i) {
    if (request.tree.parents[i] == visit.node && request.tree.tokens[i] == token && request.nodes[i].taken >= 0)
      return i;
  }
  return -1;
}

// A bit for every group of columns, so that few tokens have to be looked for among the refused ones.
__device__ inline void mark(uint32_t* marks, int token) {
  const unsigned group = token / kGroup;
  atomicOr(&marks[group / 32 % kMarkWords], 1u << group % 32);
}

__device__ inline bool is_marked(const uint32_t* marks, int column) {
  const unsigned first = column / kGroup, last = (column + kGroup - 1) / kGroup;
  return ((marks[first / 32 % kMarkWords] >> first % 32) | (marks[last / 32 % kMarkWords] >> last % 32)) & 1;
}

// Marks the tokens that were refused below a node. False where there are none.
template <typename scalar_t>
__device__ bool mark_refused(const SamplingRequest<scalar_t>& request, const Visit& visit) {
  uint32_t* marks = request.scratch.marks;
  __syncthreads();
  for (int i = threadIdx.x; i < kMarkWords; i += kRowThreads) marks[i] = 0;
  __syncthreads();
  bool any = false;
  for (int i = visit.node + 1 + threadIdx.x; i <= visit.child; i += kRowThreads) {
    if (request.tree.parents[i] != visit.node || request.nodes[i].taken < 0) continue;
    any = true;
    mark(marks, static_cast<int>(request.tree.tokens[i]));
  }
  return __syncthreads_or(any);
}

struct Masses {
  float target, draft;  // what is left of each
};

// What is left in a group that may hold refused tokens: rarely needed, and so one column after the other.
template <typename scalar_t>
__device__ Masses masses_of_marked(const SamplingRequest<scalar_t>& request, const Visit& visit, int column, int end) {
  const float* draft = request.draft(visit);
  Masses total{};
#pragma unroll 1
  for (; column < end; ++column) {
    const float mass = mass_before(request, visit, to_float(request.row(visit.node)[column]), column);
    const float drafted = draft ? draft_probability(draft[column]) : 0.0f;
    const int refused = refused_node(request, visit, column);
    total.target += mass_left(mass, drafted, refused < 0 ? visit.taken : request.nodes[refused].taken);
    total.draft += refused < 0 ? drafted : 0.0f;
  }
  return total;
}

// What is left in the columns of this lane in its warp's share. `any_refused` as mark_refused said it.
template <typename scalar_t>
__device__ Masses masses_of_share(const SamplingRequest<scalar_t>& request, const Visit& visit, Columns share,
                                  bool any_refused) {
  const float* draft = request.draft(visit);
  const bool aligned = is_aligned(draft + share.begin);
  Masses total{};
  visit_groups(request.row(visit.node), share, [&](int column, const float (&x)[kGroup]) {
    Masses part{};
    if (any_refused && is_marked(request.scratch.marks, column)) {
      part = masses_of_marked(request, visit, column, min(column + kGroup, share.end));
    } else {
      Group<float> log_probs{};
      if (draft) log_probs = load_group(draft, column, share.end, aligned);
#pragma unroll
      for (int i = 0; i < kGroup; ++i) {
        const float drafted = draft ? draft_probability(log_probs.numbers[i]) : 0.0f;
        part.target += mass_left(mass_before(request, visit, x[i], column + i), drafted, visit.taken);
        part.draft += drafted;
      }
    }
    total.target += part.target;
    total.draft += part.draft;
  });
  return total;
}

struct MassSums {
  double target, draft;
};

template <typename scalar_t>
__device__ MassSums sum_masses(const SamplingRequest<scalar_t>& request, const Visit& visit, bool any_refused) {
  const Columns share = share_of_warp({0, request.vocab}, threadIdx.x / kWarp);
  const Masses mine = masses_of_share(request, visit, share, any_refused);
  double* scratch = request.scratch.sums.doubles;
  const double target = reduce_block(static_cast<double>(mine.target), scratch, Add());
  return {target, reduce_block(static_cast<double>(mine.draft), scratch, Add())};
}

// The first token up to which more than a share `uniform` of what is left lies, or -1. The warps add up a part of the
// vocabulary each; the part that holds the token is cut among them again.
template <typename scalar_t>
__device__ int64_t sample(const SamplingRequest<scalar_t>& request, const Visit& visit, float uniform) {
  const bool any_refused = mark_refused(request, visit);
  double* sums = request.scratch.sums.doubles;
  double threshold = -1, before = 0;
  Columns range{0, request.vocab};
  while (range.end - range.begin > 1 || threshold < 0) {
    const Masses mine = masses_of_share(request, visit, share_of_warp(range, threadIdx.x / kWarp), any_refused);
    const double sum = reduce_warp(static_cast<double>(mine.target), Add());
    __syncthreads();
    if (threadIdx.x % kWarp == 0) sums[threadIdx.x / kWarp] = sum;
    __syncthreads();
    if (threshold < 0) {
      double total = 0;
      for (int warp = 0; warp < kRowWarps; ++warp) total += sums[warp];
      if (!(total > 0 && total < static_cast<double>(kInfinity))) return -1;
      threshold = fmax(0.0, uniform * total);  // a uniform that is none must not keep it below 0
    }
    int chosen = 0;
    double through = before, before_chosen = before;
    for (int warp = 0; warp < kRowWarps; ++warp) {  // the last one of any mass where rounding leaves none
      if (sums[warp] > 0) {
        chosen = warp;
        before_chosen = through;
      }
      through += sums[warp];
      if (through > threshold) break;
    }
    before = before_chosen;
    range = share_of_warp(range, chosen);
  }
  return range.begin;
}

}  // namespace mtp_ext::cuda
