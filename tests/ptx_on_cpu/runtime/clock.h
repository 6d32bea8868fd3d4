// Who has seen what. Time stands still between synchronisations; each one begins a new moment. An access is ordered
// before the current thread's next one if it is the thread's own, or if its moment lies before the last
// synchronisation that its warp and the current warp had part in.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace ptx_on_cpu {

inline constexpr uint32_t kMaxWarps = 32;
using WarpTimes = std::array<uint32_t, kMaxWarps>;  // per warp: what it did before this moment is seen

// What a fence made visible to blocks that read a later atomic of the same thread.
struct Release {
  uint32_t block_start;
  uint32_t thread, moment;
  WarpTimes seen;
};
// A thread that read an atomic variable has acquired what was released to it until then.
struct Acquired {
  const std::vector<Release>* releases;
  size_t count;
};

struct Clock {
  uint32_t now = 1;  // moment 0 is "never"
  uint32_t launch_start = 1, block_start = 1;
  std::vector<uint32_t> block_starts;  // of this launch, in the order in which its blocks ran
  std::vector<uint32_t> block_numbers;
  std::array<WarpTimes, kMaxWarps> seen{};  // [warp][other warp]

  void begin_launch();
  void begin_block(uint32_t number);
  void warp_met(uint32_t warp);
  void warps_met(uint32_t warps);  // a bit a warp
  // The number of the block of this launch that ran at `moment`.
  uint32_t block_at(uint32_t moment) const;
  uint32_t start_of_block_at(uint32_t moment) const;
};
extern Clock timeline;

}  // namespace ptx_on_cpu
