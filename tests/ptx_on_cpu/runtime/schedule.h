// In which order blocks and threads run. A correct kernel gives the same result in each.
#pragma once
#include <array>
#include <cstdint>

namespace ptx_on_cpu {

struct Schedule {
  enum Kind { kInOrder, kReverse, kRandom } kind = kInOrder;
  uint64_t seed = 1;
};
extern Schedule schedule;
// "in-order", "reverse" or "random:SEED"; false if it is none of them.
bool set_schedule(const char* words);

void restart_randomness();
uint32_t random_below(uint32_t bound);
// The next of `threads` threads to run after `last`, of those whose bit is set; -1 if none is.
int pick_thread(const std::array<uint64_t, 16>& ready, uint32_t threads, uint32_t last);
// The i-th of `count` blocks to run.
uint64_t pick_block(uint64_t i, uint64_t count);

}  // namespace ptx_on_cpu
