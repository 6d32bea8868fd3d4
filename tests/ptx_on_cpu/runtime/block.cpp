#include "block.h"

#include <cstdlib>

#include "access.h"
#include "fault.h"
#include "fiber.h"
#include "here.h"
#include "meetings.h"
#include "schedule.h"

namespace ptx_on_cpu {

Block block;
Here here;

namespace {

void run_thread() {
  block.kernel->body(block.parameters);
  block.current().exited = true;
  ptx_on_cpu_switch(&block.current().stopped_at, block.scheduler);
  abort();  // an exited thread is never resumed
}

void prepare_threads() {
  for (uint32_t i = 0; i < block.threads_in_all; ++i) {
    Thread& thread = block.threads[i];
    if (!thread.stack) thread.stack = new_stack();
    thread.stopped_at = prepare_fiber(thread.stack, run_thread);
    thread.exited = false;
    thread.waits_at = nullptr;
    thread.open_copies.clear();
    thread.groups.clear();
    thread.fenced_at = 0;
    thread.acquired.clear();
    block.make_ready(i);
  }
  for (size_t i = 0; i < block.warps.size(); ++i) {
    const uint32_t lanes = block.threads_in_all - uint32_t(i) * 32;
    block.warps[i].alive = lanes >= 32 ? ~0u : (1u << lanes) - 1;
    block.warps[i].meetings.clear();
  }
  block.barriers.fill(Barrier());
  block.alive = block.threads_in_all;
  block.acquired.clear();
}

void resume(uint32_t index) {
  block.ready[index / 64] &= ~(uint64_t(1) << (index % 64));
  here.index = index;
  here.thread.x = index % here.block_size.x;
  here.thread.y = index / here.block_size.x % here.block_size.y;
  here.thread.z = index / (here.block_size.x * here.block_size.y);
  ptx_on_cpu_switch(&block.scheduler, block.threads[index].stopped_at);
}

// Threads wait and none can run: each waits for one that never comes.
void report_deadlock() {
  for (uint32_t i = 0; i < block.threads_in_all; ++i) {
    const Thread& thread = block.threads[i];
    if (thread.exited) continue;
    if (block.fault.empty()) {
      block.fault = "deadlock: every thread waits, in block " + std::to_string(here.block.x) + "," +
                    std::to_string(here.block.y) + "," + std::to_string(here.block.z) + " of " + block.kernel->name;
    }
    const std::string line = "\n  at " + where(*thread.waits_at) + ": " + thread_name(i);
    if (block.fault.find(where(*thread.waits_at)) == std::string::npos) block.fault += line + " and others";
  }
}

}  // namespace

Thread& Block::current() { return threads[here.index]; }

void pause() {
  block.make_ready(here.index);
  ptx_on_cpu_switch(&block.current().stopped_at, block.scheduler);
}

void wait_at(Site& site) {
  block.current().waits_at = &site;
  ptx_on_cpu_switch(&block.current().stopped_at, block.scheduler);
  block.current().waits_at = nullptr;
}

void run_block() {
  prepare_threads();
  uint32_t last = schedule.kind == Schedule::kInOrder ? block.threads_in_all - 1 : 0;
  while (true) {
    const int next = pick_thread(block.ready, block.threads_in_all, last);
    if (next < 0) break;
    last = uint32_t(next);
    resume(last);
    if (!block.fault.empty()) return;
    if (block.threads[last].exited) thread_exited(last);
    if (!block.fault.empty()) return;
  }
  if (block.alive > 0) report_deadlock();
}

}  // namespace ptx_on_cpu
