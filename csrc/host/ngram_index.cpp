// Prediction by partial matching over the text itself, grown best first: a child is never more probable than its
// parent, so the most probable node that is not in the tree is always a child of one that is.
#include "ngram_index.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <queue>
#include <stdexcept>

namespace mtp_ext {

namespace {

constexpr double kPriorWeight = 4.0;  // observations that the first guess at a length's trust is worth
constexpr double kMemory = 0.98;      // what an observation counts for after each later one of the same length

uint64_t mix(uint64_t hash, int64_t token) {
  hash = (hash ^ static_cast<uint64_t>(token)) * 0x9E3779B97F4A7C15u;
  return hash ^ (hash >> 32);
}

}  // namespace

void NgramIndex::extend(const Integers& tokens) {
  for (const int64_t token : tokens) {
    learn(token);
    tokens_.push_back(token);
    chain();
    find();
  }
}

void NgramIndex::learn(int64_t token) {
  if (occurrences_.empty()) return;
  const int64_t longest = occurrences_.front().length;
  const bool hit = std::any_of(occurrences_.begin(), occurrences_.end(), [&](const Occurrence& occurrence) {
    return occurrence.length == longest && tokens_[occurrence.end + 1] == token;
  });
  trials_[longest] = kMemory * trials_[longest] + 1.0;
  hits_[longest] = kMemory * hits_[longest] + (hit ? 1.0 : 0.0);
}

double NgramIndex::trust(int64_t length) const {
  const double prior = kPriorWeight * static_cast<double>(length) / static_cast<double>(length + 2);
  return (hits_[length] + prior) / (trials_[length] + kPriorWeight);
}

void NgramIndex::chain() {
  const int64_t count = static_cast<int64_t>(tokens_.size());
  for (size_t i = 0; i < kOrders.size(); ++i) {
    previous_[i].push_back(-1);
    if (kOrders[i] > count) continue;
    uint64_t hash = 0;
    for (int64_t j = count - kOrders[i]; j < count; ++j) hash = mix(hash, tokens_[j]);
    const auto [known, is_new] = latest_[i].try_emplace(hash, count - 1);
    if (is_new) continue;
    previous_[i].back() = known->second;
    known->second = count - 1;
  }
}

void NgramIndex::find() {
  Integers ends;
  for (const Integers& previous : previous_) {
    int64_t end = previous.back();
    for (int64_t i = 0; i < kFollowed && end >= 0; ++i, end = previous[end]) ends.push_back(end);
  }
  std::sort(ends.begin(), ends.end(), std::greater<>());
  ends.erase(std::unique(ends.begin(), ends.end()), ends.end());
  occurrences_.clear();
  for (const int64_t end : ends) {
    // Two n-grams of one hash are possible, if barely: then nothing matches.
    if (const int64_t length = match_length(end); length > 0) occurrences_.push_back({end, length});
  }
  std::stable_sort(occurrences_.begin(), occurrences_.end(),
                   [](const Occurrence& a, const Occurrence& b) { return a.length > b.length; });
}

int64_t NgramIndex::match_length(int64_t end) const {
  const int64_t last = static_cast<int64_t>(tokens_.size()) - 1;
  int64_t length = 0;
  while (length < kLongest && length <= end && tokens_[end - length] == tokens_[last - length]) ++length;
  return length;
}

std::vector<NgramIndex::Child> NgramIndex::children(const std::vector<Occurrence>& occurrences) const {
  std::vector<Child> found;
  double remaining = 1.0;
  size_t seen = 0;
  const auto add = [&](const Occurrence& occurrence) {
    const int64_t token = tokens_[occurrence.end + 1];
    auto child = std::find_if(found.begin(), found.end(), [&](const Child& other) { return other.token == token; });
    if (child == found.end()) child = found.insert(found.end(), {token, 0.0, {}});
    child->occurrences.push_back({occurrence.end + 1, std::min(occurrence.length + 1, kLongest)});
    ++seen;
  };
  const int64_t count = static_cast<int64_t>(tokens_.size());
  for (size_t i = 0; i < occurrences.size();) {
    const int64_t length = occurrences[i].length;
    const size_t before = seen;
    for (; i < occurrences.size() && occurrences[i].length == length; ++i) {
      if (occurrences[i].end + 1 < count) add(occurrences[i]);
    }
    if (seen == before) continue;  // all of this length are at the text's end
    const double share = remaining * trust(length) / static_cast<double>(seen);
    for (Child& child : found) child.probability += share * static_cast<double>(child.occurrences.size());
    remaining *= 1.0 - trust(length);
  }
  return found;
}

std::tuple<Integers, Integers, LogProbs> NgramIndex::draft(int64_t nodes, int64_t depth) const {
  if (tokens_.empty()) throw std::invalid_argument("NgramIndex: the text must have a token before its first draft");
  Integers node_tokens{tokens_.back()}, parents{-1}, depths{0};
  LogProbs path_log_probs{0.0};
  std::vector<Child> offered;
  using Offer = std::tuple<double, size_t, int64_t>;  // minus log-probability, place in `offered`, parent
  std::priority_queue<Offer, std::vector<Offer>, std::greater<Offer>> offers;
  const auto offer_children = [&](int64_t node, const std::vector<Occurrence>& occurrences) {
    for (Child& child : children(occurrences)) {
      offers.emplace(-(path_log_probs[node] + std::log(child.probability)), offered.size(), node);
      offered.push_back(std::move(child));
    }
  };
  if (depth > 0) offer_children(0, occurrences_);
  while (!offers.empty() && static_cast<int64_t>(parents.size()) < nodes) {
    const auto [negative, place, parent] = offers.top();
    offers.pop();
    node_tokens.push_back(offered[place].token);
    parents.push_back(parent);
    path_log_probs.push_back(-negative);
    depths.push_back(depths[parent] + 1);
    // Moved out: `offered` grows while the children are made.
    const std::vector<Occurrence> occurrences = std::move(offered[place].occurrences);
    if (depths.back() < depth) offer_children(static_cast<int64_t>(parents.size()) - 1, occurrences);
  }
  return {node_tokens, parents, path_log_probs};
}

}  // namespace mtp_ext
