#include "clock.h"

#include <algorithm>

namespace ptx_on_cpu {

Clock timeline;

void Clock::begin_launch() {
  launch_start = ++now;
  block_starts.clear();
  block_numbers.clear();
}

void Clock::begin_block(uint32_t number) {
  block_start = ++now;
  block_starts.push_back(now);
  block_numbers.push_back(number);
  for (WarpTimes& times : seen) times.fill(block_start);
}

void Clock::warp_met(uint32_t warp) { seen[warp][warp] = ++now; }

void Clock::warps_met(uint32_t warps) {
  ++now;
  WarpTimes together{};
  for (uint32_t warp = 0; warp < kMaxWarps; ++warp) {
    if (!(warps >> warp & 1)) continue;
    for (uint32_t other = 0; other < kMaxWarps; ++other) {
      together[other] = warps >> other & 1 ? now : std::max(together[other], seen[warp][other]);
    }
  }
  for (uint32_t warp = 0; warp < kMaxWarps; ++warp) {
    if (warps >> warp & 1) seen[warp] = together;
  }
}

uint32_t Clock::start_of_block_at(uint32_t moment) const {
  const auto after = std::upper_bound(block_starts.begin(), block_starts.end(), moment);
  return after == block_starts.begin() ? 0 : *(after - 1);
}

uint32_t Clock::block_at(uint32_t moment) const {
  const auto after = std::upper_bound(block_starts.begin(), block_starts.end(), moment);
  return after == block_starts.begin() ? 0 : block_numbers[size_t(after - block_starts.begin()) - 1];
}

}  // namespace ptx_on_cpu
