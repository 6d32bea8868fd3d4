// How a kernel that decides as it goes shares the work of one step: its caller knows the threads.
#pragma once

#include <cstdint>
#include <functional>

namespace mtp_ext {

// Calls body(i) for 0 <= i < items, in any order and on any threads; an item reads so many logits.
using ParallelFor =
    std::function<void(int64_t items, int64_t logits_per_item, const std::function<void(int64_t)>& body)>;

}  // namespace mtp_ext
