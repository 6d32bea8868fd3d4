// The k best of a stream of (value, id), ties to the lower id: a buffer that is cut back to k when it is
// full, and a threshold that only rises.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "simd.h"

namespace mtp_ext {

struct Candidate {
  float value;
  int64_t id;
};

// Room that a growing list of them begins with: 1 KiB, as much as malloc hands out quickly.
inline constexpr int64_t kFirstCandidates = 64;

// An object and not a function, which sorting would call through a pointer.
inline constexpr auto precedes = [](const Candidate& a, const Candidate& b) {
  return a.value > b.value || (a.value == b.value && a.id < b.id);
};

class TopCandidates {
 public:
  // Candidates under `threshold` are known not to be among the best.
  explicit TopCandidates(int64_t k, float threshold = -kInfinity) : k_(k), threshold_(threshold) {}

  // No candidate of a smaller value can be among the k best.
  float threshold() const { return threshold_; }

  void add(float value, int64_t id) {
    if (!(value >= threshold_) || value == -kInfinity) return;
    if (candidates_.empty()) candidates_.reserve(kFirstCandidates);
    candidates_.push_back({value, id});
    if (static_cast<int64_t>(candidates_.size()) >= 2 * k_ + kSlack) cut();
  }

  // Adds values[i] under the id first_id + i.
  void add_all(const float* values, int64_t count, int64_t first_id) {
    int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) {
      const uint32_t rejected = less_mask(load(values + i), broadcast(threshold_));
      if (rejected == kAllLanes) continue;
      for (int64_t lane = 0; lane < kLanes; ++lane) add(values[i + lane], first_id + i + lane);
    }
    for (; i < count; ++i) add(values[i], first_id + i);
  }

  void add_all(const TopCandidates& other) {
    for (const Candidate& candidate : other.candidates_) add(candidate.value, candidate.id);
  }

  // Drops all but the k best and raises the threshold to the k-th.
  void cut() {
    if (static_cast<int64_t>(candidates_.size()) < k_) return;
    std::nth_element(candidates_.begin(), candidates_.begin() + (k_ - 1), candidates_.end(), precedes);
    candidates_.resize(k_);
    threshold_ = candidates_.back().value;
  }

  // The k best, or fewer, in order.
  const std::vector<Candidate>& sorted() {
    cut();
    std::sort(candidates_.begin(), candidates_.end(), precedes);
    return candidates_;
  }

 private:
  static constexpr int64_t kSlack = 64;

  int64_t k_;
  float threshold_;
  std::vector<Candidate> candidates_;
};

}  // namespace mtp_ext
