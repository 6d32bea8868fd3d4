// The block that runs: its threads as fibers, its warps, its barriers.
#pragma once
#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "clock.h"
#include "kernel.h"
#include "memory.h"

namespace ptx_on_cpu {

struct AsyncCopy {
  Site* site;
  uintptr_t shared;
  const uint8_t* from;
  uint32_t bytes, source_bytes;
  bool landed;
};

struct Thread {
  void* stack = nullptr;
  void* stopped_at = nullptr;  // stack pointer
  bool exited = false;
  Site* waits_at = nullptr;         // the collective or barrier; nullptr while it can run
  uint32_t arrived = 0, trues = 0;  // at the barrier it last left
  std::vector<AsyncCopy> open_copies;
  std::vector<std::vector<AsyncCopy>> groups;
  uint32_t fenced_at = 0;  // moment of the last fence, 0 for none
  std::vector<Acquired> acquired;
};

// Lanes of one warp on their way to the same collective.
struct Meeting {
  uint32_t mask = 0, arrived = 0;
  Site* site = nullptr;
  void* arguments[32];
};
struct Warp {
  uint32_t alive = 0;  // lanes that have not exited
  std::vector<Meeting> meetings;
};
struct Barrier {
  uint32_t threads = 0;  // that it waits for; 0: all that live
  uint32_t arrived = 0, trues = 0;
  uint32_t warps = 0;  // that took part
  Site* site = nullptr;
  std::vector<uint32_t> waiting;
};
inline constexpr uint32_t kBarriers = 16;

struct Block {
  const Kernel* kernel = nullptr;
  const uint8_t* parameters = nullptr;
  uint32_t threads_in_all = 0, alive = 0;
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  std::array<Barrier, kBarriers> barriers;
  std::vector<Region> shared;        // static variables, then the dynamic array
  std::vector<Acquired> acquired;    // by all threads
  std::array<uint64_t, 16> ready{};  // a bit a thread
  void* scheduler = nullptr;         // where run_block stopped
  std::string fault;                 // empty: none so far

  Thread& current();
  void make_ready(uint32_t thread) { ready[thread / 64] |= uint64_t(1) << (thread % 64); }
};
extern Block block;

// Runs the block to its end or to the first fault.
void run_block();
// Gives other threads a chance; the caller stays ready.
void pause();
// Stops the caller until make_ready.
void wait_at(Site& site);

}  // namespace ptx_on_cpu
