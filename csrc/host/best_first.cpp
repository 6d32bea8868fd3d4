// Best-first search: a child is never more probable than its parent, nor a candidate than the one before it, so the
// most probable node that is not in the tree is always a first child or a next sibling of one that is.
#include <algorithm>
#include <functional>
#include <limits>
#include <numeric>
#include <queue>
#include <unordered_set>

#include "tree_builders.h"

namespace mtp_ext {

namespace {

struct Candidate {
  int64_t token;
  double log_prob;
};

std::vector<Candidate> rank_candidates(const Integers& tokens, const LogProbs& log_probs) {
  std::vector<size_t> order(tokens.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return log_probs[a] > log_probs[b]; });
  std::vector<Candidate> ranked;
  std::unordered_set<int64_t> seen;
  for (const size_t i : order) {
    const bool exists = tokens[i] >= 0 && log_probs[i] > -std::numeric_limits<double>::infinity();
    if (exists && seen.insert(tokens[i]).second) ranked.push_back({tokens[i], log_probs[i]});
  }
  return ranked;
}

}  // namespace

std::tuple<Integers, Integers, LogProbs> best_first(int64_t root_token, const std::vector<Integers>& tokens,
                                                    const std::vector<LogProbs>& log_probs, int64_t budget) {
  std::vector<std::vector<Candidate>> candidates;
  for (size_t depth = 0; depth < tokens.size(); ++depth) {
    candidates.push_back(rank_candidates(tokens[depth], log_probs[depth]));
  }
  Integers node_tokens{root_token}, parents{-1};
  LogProbs path_log_probs{0.0};
  std::vector<size_t> depths{0};

  using Offer = std::tuple<double, int64_t, size_t>;  // minus log-probability, parent, rank
  std::priority_queue<Offer, std::vector<Offer>, std::greater<Offer>> offers;
  const auto offer = [&](int64_t parent, size_t rank) {
    const size_t depth = depths[parent];
    if (depth == candidates.size() || rank == candidates[depth].size()) return;
    offers.emplace(-(path_log_probs[parent] + candidates[depth][rank].log_prob), parent, rank);
  };
  offer(0, 0);
  while (!offers.empty() && static_cast<int64_t>(parents.size()) < budget) {
    const auto [negative, parent, rank] = offers.top();
    offers.pop();
    const int64_t node = static_cast<int64_t>(parents.size());
    node_tokens.push_back(candidates[depths[parent]][rank].token);
    parents.push_back(parent);
    path_log_probs.push_back(-negative);
    depths.push_back(depths[parent] + 1);
    offer(parent, rank + 1);
    offer(node, 0);
  }
  return {node_tokens, parents, path_log_probs};
}

}  // namespace mtp_ext
