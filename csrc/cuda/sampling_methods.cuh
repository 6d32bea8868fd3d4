// How each method walks a tree, as steps: a step looks at nodes until a row of the target has to be read, and says
// which. So the code that reads rows stands in the kernel once, whatever the method.
#pragma once

#include "target_row.cuh"

namespace mtp_ext::cuda {

enum class Step {
  kOpen,    // the target after visit.node is needed
  kRefuse,  // visit.child is refused
  kSample,  // the path ends at visit.node: the next token is drawn from what is left there
  kStop,    // the same, but nothing can be drawn
};

inline constexpr float kRounding = 1e-3f;  // nats by which a log-probability may be above 0

__device__ inline Visit new_visit(int node, double rate) {
  Visit visit{};
  visit.node = visit.child = node;
  visit.rate = rate;
  visit.draft_row = -1;
  visit.draft_mass = 1;
  return visit;
}

// Moves on to the next child, if there is one.
template <typename scalar_t>
__device__ bool to_next_child(const SamplingRequest<scalar_t>& request, Visit& visit) {
  const int child = next_child(request.tree, visit.node, visit.child, [](int) { return true; });
  if (child >= 0) visit.child = child;
  return child >= 0;
}

// What is left of the token of visit.child, of the target and of what it was drawn from; the latter is 0 where it
// cannot have been drawn, or by values that say so of themselves.
template <typename scalar_t>
__device__ Masses masses_of_child(const SamplingRequest<scalar_t>& request, Visit& visit) {
  const auto& params = request.params;
  const DraftTree& tree = request.tree;
  const int child = visit.child;
  const int64_t token = tree.tokens[child];
  const bool refused = find_first(visit.node + 1, child, tree.votes, [&](int i) {
                         return tree.parents[i] == visit.node && tree.tokens[i] == token && request.nodes[i].taken >= 0;
                       }) >= 0;
  float draft = 1;
  if (request.draft_rows) {
    const int64_t place = request.index * params.drafts.nodes + child, row = request.draft_rows[child];
    if (visit.draft_row < 0 && row >= 0 && row < params.q_rows) visit.draft_row = row;
    if (row < 0 || row != visit.draft_row) {
      request.report_at(Fault::kDraftRow, place);
      return {};
    }
    const float log_prob = request.draft(visit)[token];
    if (!(log_prob <= kRounding)) {
      request.report_at(Fault::kDraftLogProb, place);
      return {};
    }
    draft = draft_probability(log_prob);
    if (refused) return {};
  }
  const float mass = mass_before(request, visit, to_float(request.row(visit.node)[token]), static_cast<int>(token));
  if (!request.draft_rows) return {refused ? 0 : mass, 1};
  return {mass_left(mass, draft, visit.taken), draft};
}

// From the root down: u < p / q.
template <typename scalar_t>
__device__ Step descend(const SamplingRequest<scalar_t>& request, Visit& visit) {
  if (!visit.opened) return Step::kOpen;
  if (visit.broken) return Step::kStop;
  bool accepted = visit.mass == 0;  // p = q: only rounding refused the last child
  while (!accepted) {
    if (!to_next_child(request, visit)) return Step::kSample;
    const Masses child = masses_of_child(request, visit);
    if (child.draft == 0) continue;
    const double uniform = request.uniforms[visit.child];
    accepted = uniform * child.draft * visit.mass < child.target * visit.draft_mass;
    if (!accepted) return Step::kRefuse;
  }
  visit = new_visit(visit.child, 1);
  return Step::kOpen;
}

template <typename scalar_t>
__device__ void keep_visit(const SamplingRequest<scalar_t>& request, const Visit& visit) {
  __syncthreads();
  if (threadIdx.x == 0) request.nodes[visit.node].visit = visit;
  __syncthreads();
}

// From the leaves up: u < rate.
template <typename scalar_t>
__device__ Step traverse(const SamplingRequest<scalar_t>& request, Visit& visit) {
  while (true) {
    const int before = visit.child;
    if (!visit.spent && to_next_child(request, visit)) {
      if (!visit.opened) {
        visit.child = before;
        return Step::kOpen;
      }
      if (visit.broken) {
        visit.node = 0;
        return Step::kStop;
      }
      const Masses child = masses_of_child(request, visit);
      if (child.draft == 0) continue;
      const double ratio = child.target * visit.draft_mass / (child.draft * visit.mass);
      const double rate = fmin(1.0, visit.rate * ratio);
      keep_visit(request, visit);
      visit = new_visit(visit.child, rate);
      visit.spent = !(rate > 0);
      continue;
    }
    if (visit.node > 0 && !(request.uniforms[visit.node] < visit.rate)) {
      keep_visit(request, visit);
      visit = request.nodes[request.tree.parents[visit.node]].visit;
      return Step::kRefuse;
    }
    if (!visit.opened) return Step::kOpen;
    return visit.broken ? Step::kStop : Step::kSample;
  }
}

// The parent's rate once a child has been refused, which had so much mass before; or the child again, where at a
// difference of 0 only rounding refused it.
template <typename scalar_t>
__device__ void lower_rate(const SamplingRequest<scalar_t>& request, Visit& visit, double mass_before_refusal) {
  const double excess = visit.rate * (visit.mass / mass_before_refusal);
  const double left = excess + 1 - visit.rate;
  if (left > 0) {
    visit.rate = excess / left;
    visit.spent = excess == 0;
  } else {
    visit = request.nodes[visit.child].visit;
    visit.rate = 2;  // accepted at any uniform
    visit.spent = true;
  }
}

// Accepts the children that are more probable than min(epsilon, delta * exp(-entropy)).
template <typename scalar_t>
__device__ void judge_children(const SamplingRequest<scalar_t>& request, const Visit& visit) {
  const DraftTree& tree = request.tree;
  const scalar_t* row = request.row(visit.node);
  float sum = 0;  // of mass * octaves
  visit_row(row, request.vocab, [&](int column, const float (&x)[kGroup]) {
    float part = 0;
#pragma unroll
    for (int i = 0; i < kGroup; ++i) {
      const float mass = mass_before(request, visit, x[i], column + i);
      if (mass > 0) part = fmaf(mass, (x[i] - visit.best) * request.limits.scale, part);
    }
    sum += part;
  });
  const double octaves = reduce_block(static_cast<double>(sum), request.scratch.sums.doubles, Add()) / visit.mass;
  const double threshold = fmin(request.params.epsilon, request.params.delta * exp2(octaves) / visit.mass);
  const SamplingNode parent = request.nodes[visit.node];
  for (int i = visit.node + 1 + threadIdx.x; i < tree.count; i += kRowThreads) {
    if (tree.parents[i] != visit.node || !tree.holds_token(i)) continue;
    const auto token = static_cast<int>(tree.tokens[i]);
    const double probability = mass_before(request, visit, to_float(row[token]), token) / visit.mass;
    if (!(probability > threshold)) continue;
    request.nodes[i].depth = parent.depth + 1;
    request.nodes[i].log_prob = parent.log_prob + log(probability);
  }
  __syncthreads();
}

// The last node of the longest path, of several the most probable one.
template <typename scalar_t>
__device__ int end_of_longest(const SamplingRequest<scalar_t>& request) {
  int end = 0;
  for (int i = 1; i < request.tree.count; ++i) {
    const SamplingNode &node = request.nodes[i], &best = request.nodes[end];
    if (node.depth > best.depth || (node.depth == best.depth && node.log_prob > best.log_prob)) end = i;
  }
  return end;
}

// All nodes that can be reached, in order; then the end of the longest path, as a visit that is spent.
template <typename scalar_t>
__device__ Step accept_typical(const SamplingRequest<scalar_t>& request, Visit& visit) {
  const DraftTree& tree = request.tree;
  if (visit.spent) return visit.broken ? Step::kStop : Step::kSample;
  if (visit.opened && !visit.broken) judge_children(request, visit);
  const auto reached = [&](int i) { return request.nodes[i].depth >= 0; };
  const auto any = [](int) { return true; };
  int node = visit.opened ? find_first(visit.node + 1, tree.count, tree.votes, reached) : 0;
  while (node >= 0 && next_child(tree, node, node, any) < 0)
    node = find_first(node + 1, tree.count, tree.votes, reached);
  visit = new_visit(node < 0 ? end_of_longest(request) : node, 1);
  visit.spent = node < 0;
  return Step::kOpen;
}

}  // namespace mtp_ext::cuda
