#include <algorithm>
#include <cmath>

#include "verify_sampling.h"

namespace mtp_ext {
namespace {

// What the children of a node were drawn from, without replacement.
class Draft {
 public:
  Draft(const float* log_probs, int64_t vocab, const ParallelFor& parallel)
      : log_probs_(log_probs), vocab_(vocab), parallel_(&parallel) {}

  // Of being the next one drawn.
  double probability(int64_t token) const {
    return masses_ ? masses_->share(token) : std::exp(static_cast<double>(log_probs_[token]));
  }

  // A refusal of the token leaves max(rate * target - q, 0) of the target, and q without the token. False where q is
  // no distribution.
  bool refuse(int64_t token, double rate, TokenMasses& target) {
    const bool first = !masses_;
    if (first) masses_.emplace(log_probs_, vocab_, kLog2E, Normalizer{}, *parallel_);
    if (!std::isfinite(masses_->total())) return false;
    target.subtract(rate, *masses_, first ? 1.0 : 1.0 / masses_->total());
    masses_->remove(token);
    return true;
  }

 private:
  const float* log_probs_;  // [vocab]
  int64_t vocab_;
  const ParallelFor* parallel_;
  std::optional<TokenMasses> masses_;  // once something has been refused
};

template <typename scalar_t>
class Sampler {
 public:
  Sampler(const DraftTree& tree, const SamplingRequest<scalar_t>& request, const ParallelFor& parallel)
      : tree_(tree), request_(request), parallel_(parallel), last_uniform_(request.uniforms[tree.size()]) {}

  Verdict descend(bool sampled) const {
    Verdict verdict;
    for (int64_t node = 0;;) {
      verdict.path.push_back(node);
      TargetRow<scalar_t> target = target_after(node);
      if (target.broken()) return verdict;
      int64_t child = tree_.first_child(node);
      std::optional<Draft> draft;
      if (sampled && child >= 0) draft = draft_of(child);
      for (; child >= 0; child = tree_.next_sibling(child)) {
        const int64_t token = tree_.token(child);
        const double q = draft ? draft->probability(token) : 1.0;
        if (q == 0) continue;  // it cannot have been drawn
        if (request_.uniforms[child] < target.probability(token) / q) break;
        if (!draft) {
          target.masses().remove(token);
        } else if (!draft->refuse(token, 1.0, target.masses())) {
          return verdict;
        }
        if (target.masses().total() == 0) break;  // p = q: only rounding refused it
      }
      if (child < 0) {
        verdict.next_token = target.masses().sample(last_uniform_);
        return verdict;
      }
      node = child;
    }
  }

  // The nodes on the path that is looked at; below the last one all has been refused.
  Verdict traverse() const {
    std::vector<Visit> path;
    path.push_back({0, 1.0, tree_.first_child(0), {}, {}});
    while (true) {
      Visit& visit = path.back();
      if (visit.waiting >= 0) {
        const int64_t child = visit.waiting;
        visit.waiting = tree_.next_sibling(child);
        if (!visit.target) {
          visit.target = target_after(visit.node);
          visit.draft = draft_of(child);
        }
        if (visit.target->broken()) return {{0}, -1};
        const int64_t token = tree_.token(child);
        const double q = visit.draft->probability(token);
        if (q == 0) continue;  // it cannot have been drawn
        const double rate = std::min(1.0, visit.rate * (visit.target->probability(token) / q));
        path.push_back({child, rate, rate > 0 ? tree_.first_child(child) : -1, {}, {}});
        continue;
      }
      if (path.size() > 1 && !(request_.uniforms[visit.node] < visit.rate)) {
        Visit& parent = path[path.size() - 2];
        TokenMasses& target = parent.target->masses();
        if (!parent.draft->refuse(tree_.token(visit.node), parent.rate, target)) return {{0}, -1};
        const double excess = target.total();
        const double left = excess + 1 - parent.rate;
        if (left > 0) {  // at 0 only rounding refused the node
          parent.rate = excess / left;
          if (excess == 0) parent.waiting = -1;  // nor is anything else below it accepted
          path.pop_back();
          continue;
        }
      }
      Verdict verdict;
      for (const Visit& each : path) verdict.path.push_back(each.node);
      if (!visit.target) visit.target = target_after(visit.node);
      if (!visit.target->broken()) verdict.next_token = visit.target->masses().sample(last_uniform_);
      return verdict;
    }
  }

  Verdict typical() const {
    std::vector<int64_t> parents(tree_.size(), -1);
    std::vector<int64_t> depths(tree_.size(), -1);  // -1 where a node is not accepted
    std::vector<double> log_probs(tree_.size(), 0);
    depths[0] = 0;
    int64_t end = 0;
    for (int64_t node = 0; node < tree_.count(); ++node) {
      if (depths[node] < 0) continue;
      if (depths[node] > depths[end] || (depths[node] == depths[end] && log_probs[node] > log_probs[end])) end = node;
      if (tree_.first_child(node) < 0) continue;
      TargetRow<scalar_t> target = target_after(node);
      if (target.broken()) continue;
      const double threshold = std::min(request_.epsilon, request_.delta * std::exp(-target.masses().entropy()));
      for (int64_t child = tree_.first_child(node); child >= 0; child = tree_.next_sibling(child)) {
        const double p = target.probability(tree_.token(child));
        if (!(p > threshold)) continue;
        parents[child] = node;
        depths[child] = depths[node] + 1;
        log_probs[child] = log_probs[node] + std::log(p);
      }
    }
    Verdict verdict;
    for (int64_t node = end; node >= 0; node = parents[node]) verdict.path.push_back(node);
    std::reverse(verdict.path.begin(), verdict.path.end());
    TargetRow<scalar_t> target = target_after(end);
    if (!target.broken()) verdict.next_token = target.masses().sample(last_uniform_);
    return verdict;
  }

 private:
  struct Visit {
    int64_t node;
    double rate;      // at which the path down to here is accepted, by what has been refused below it
    int64_t waiting;  // the next child, or -1
    std::optional<TargetRow<scalar_t>> target;
    std::optional<Draft> draft;
  };

  TargetRow<scalar_t> target_after(int64_t node) const {
    return {request_.logits + node * request_.node_stride, request_.vocab, request_.limits, parallel_};
  }
  Draft draft_of(int64_t child) const {
    return {request_.draft_log_probs + request_.draft_rows[child] * request_.draft_stride, request_.vocab, parallel_};
  }

  const DraftTree& tree_;
  const SamplingRequest<scalar_t>& request_;
  const ParallelFor& parallel_;
  double last_uniform_;
};

}  // namespace

template <typename scalar_t>
Verdict verify_by_sampling(SamplingMethod method, const DraftTree& tree, const SamplingRequest<scalar_t>& request,
                           const ParallelFor& parallel) {
  if (tree.count() == 0) return {};
  const Sampler<scalar_t> sampler(tree, request, parallel);
  if (method == SamplingMethod::kTraversal) return sampler.traverse();
  if (method == SamplingMethod::kTypical) return sampler.typical();
  return sampler.descend(method == SamplingMethod::kWithoutReplacement);
}

#define MTP_EXT_INSTANTIATE(scalar_t)                                                                     \
  template Verdict verify_by_sampling(SamplingMethod, const DraftTree&, const SamplingRequest<scalar_t>&, \
                                      const ParallelFor&);
MTP_EXT_INSTANTIATE(float)
MTP_EXT_INSTANTIATE(bfloat16)
MTP_EXT_INSTANTIATE(float16)
#undef MTP_EXT_INSTANTIATE

}  // namespace mtp_ext
