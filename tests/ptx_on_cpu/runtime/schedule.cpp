#include "schedule.h"

#include <cstdlib>
#include <cstring>
#include <numeric>

namespace ptx_on_cpu {

Schedule schedule;

namespace {

uint64_t random_state = 1;

uint64_t next_random() {  // xorshift64*
  random_state ^= random_state << 13, random_state ^= random_state >> 7, random_state ^= random_state << 17;
  return random_state * 0x2545F4914F6CDD1DULL;
}

// The first set bit at or after `from`, cyclically.
int first_from(const std::array<uint64_t, 16>& ready, uint32_t from) {
  for (uint32_t step = 0; step <= ready.size(); ++step) {
    const uint32_t word = (from / 64 + step) % ready.size();
    uint64_t bits = ready[word];
    if (step == 0) bits &= ~uint64_t(0) << (from % 64);
    if (bits) return int(word * 64) + __builtin_ctzll(bits);
  }
  return -1;
}
int last_to(const std::array<uint64_t, 16>& ready, uint32_t to) {
  for (uint32_t step = 0; step <= ready.size(); ++step) {
    const uint32_t word = (to / 64 + ready.size() - step) % ready.size();
    uint64_t bits = ready[word];
    if (step == 0) bits &= ~uint64_t(0) >> (63 - to % 64);
    if (bits) return int(word * 64) + 63 - __builtin_clzll(bits);
  }
  return -1;
}

}  // namespace

bool set_schedule(const char* words) {
  if (strcmp(words, "in-order") == 0) return schedule = {Schedule::kInOrder, 1}, true;
  if (strcmp(words, "reverse") == 0) return schedule = {Schedule::kReverse, 1}, true;
  if (strncmp(words, "random:", 7) == 0) return schedule = {Schedule::kRandom, strtoull(words + 7, nullptr, 10)}, true;
  return false;
}

void restart_randomness() { random_state = schedule.seed * 0x9E3779B97F4A7C15ULL + 1; }

uint32_t random_below(uint32_t bound) { return uint32_t((next_random() >> 32) * bound >> 32); }

int pick_thread(const std::array<uint64_t, 16>& ready, uint32_t threads, uint32_t last) {
  switch (schedule.kind) {
    case Schedule::kReverse:
      return last_to(ready, last == 0 ? threads - 1 : last - 1);
    case Schedule::kRandom:
      return first_from(ready, random_below(threads));
    default:
      return first_from(ready, (last + 1) % threads);
  }
}

uint64_t pick_block(uint64_t i, uint64_t count) {
  if (schedule.kind == Schedule::kReverse) return count - 1 - i;
  if (schedule.kind == Schedule::kInOrder) return i;
  uint64_t stride = schedule.seed % count | 1;  // coprime to count: visits every block once
  while (std::gcd(stride, count) != 1) stride += 2;
  return (i * stride + schedule.seed) % count;
}

}  // namespace ptx_on_cpu
