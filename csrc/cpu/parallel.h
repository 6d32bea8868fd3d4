// The one way in which bindings share work among threads: torch's own pool, items cut by the request's shape
// alone.
#pragma once

#include <algorithm>
#include <cstdint>

#include "../torch_stable.h"

namespace mtp_ext {

inline constexpr int64_t kGrain = 32768;  // logits that are worth a thread

// Calls body(begin, end) for ranges of items on as many threads as the work is worth; an item reads `logits_per_item`
// logits.
template <typename Body>
void parallel_ranges(int64_t items, int64_t logits_per_item, const Body& body) {
  const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, logits_per_item));
  torch::stable::parallel_for(0, items, grain, body);
}

// The same with body(i) for each item.
template <typename Body>
void parallel_items(int64_t items, int64_t logits_per_item, const Body& body) {
  parallel_ranges(items, logits_per_item, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) body(i);
  });
}

inline int64_t thread_count() { return torch::stable::get_num_threads(); }

}  // namespace mtp_ext
