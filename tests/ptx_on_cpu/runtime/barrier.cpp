// bar.sync, bar.arrive and bar.red, and what the end of a thread means to those who wait.
#include "collectives.h"
#include "fault.h"
#include "here.h"
#include "meetings.h"

namespace ptx_on_cpu {
namespace {

void complete(Barrier& barrier) {
  timeline.warps_met(barrier.warps);
  share_acquired(0, block.threads_in_all);
  for (uint32_t thread : barrier.waiting) {
    block.threads[thread].arrived = barrier.arrived, block.threads[thread].trues = barrier.trues;
    block.make_ready(thread);
  }
  barrier.waiting.clear();
  barrier.arrived = 0, barrier.warps = 0, barrier.site = nullptr;
}

void complete_if_full(Barrier& barrier) {
  const uint32_t needed = barrier.threads ? barrier.threads : block.alive;
  if (barrier.arrived && barrier.arrived >= needed) complete(barrier);
}

Barrier& arrive(Site& site, uint32_t name, uint32_t threads, bool predicate) {
  if (name >= kBarriers) fail(site, "barrier " + std::to_string(name) + " does not exist: there are 16");
  if (threads % 32) fail(site, "a barrier of " + std::to_string(threads) + " threads: not a multiple of 32");
  Barrier& barrier = block.barriers[name];
  if (!barrier.arrived) {
    barrier.threads = threads, barrier.site = &site, barrier.trues = 0;
  } else if (barrier.threads != threads) {
    fail(site, "divergent barrier " + std::to_string(name) + ": others wait for another number of threads at " +
                   where(*barrier.site));
  } else if (barrier.site != &site && threads == 0) {
    fail(site, "divergent barrier: other threads of the block wait at " + where(*barrier.site));
  }
  ++barrier.arrived;
  barrier.trues += predicate;
  barrier.warps |= 1u << here.warp();
  return barrier;
}

}  // namespace

void share_acquired(uint32_t first, uint32_t end) {
  for (uint32_t i = first; i < end; ++i) {
    std::vector<Acquired>& acquired = block.threads[i].acquired;
    block.acquired.insert(block.acquired.end(), acquired.begin(), acquired.end());
    acquired.clear();
  }
}

void barrier(Site& site, uint32_t name, uint32_t threads) {
  Barrier& barrier = arrive(site, name, threads, false);
  barrier.waiting.push_back(here.index);
  complete_if_full(barrier);
  wait_at(site);
}

void barrier_arrive(Site& site, uint32_t name, uint32_t threads) {
  complete_if_full(arrive(site, name, threads, false));
}

uint32_t barrier_reduce(Site& site, uint32_t name, uint32_t threads, Verdict verdict, bool predicate) {
  Barrier& barrier = arrive(site, name, threads, predicate);
  barrier.waiting.push_back(here.index);
  complete_if_full(barrier);
  wait_at(site);
  const Thread& me = block.current();
  if (verdict == Verdict::kCount) return me.trues;
  return verdict == Verdict::kAnd ? me.trues == me.arrived : me.trues > 0;
}

void thread_exited(uint32_t index) {
  Warp& warp = block.warps[index / 32];
  const uint32_t lane = index % 32;
  --block.alive;
  warp.alive &= ~(1u << lane);
  for (const Meeting& meeting : warp.meetings) {
    if (meeting.arrived && meeting.mask >> lane & 1) {
      block.fault =
          "bad lane mask: " + thread_name(index) +
          " exited while its warp waits for it\n  kernel: " + block.kernel->name +
          "\n  instruction: " + where(*meeting.site) + "\n  " +
          block_name(here.block.x + uint64_t(here.grid.x) * (here.block.y + uint64_t(here.grid.y) * here.block.z));
    }
  }
  for (Barrier& barrier : block.barriers) {
    if (!barrier.threads) complete_if_full(barrier);
  }
}

}  // namespace ptx_on_cpu
