#include "launch.h"

#include <cstring>
#include <map>

#include "block.h"
#include "fault.h"
#include "here.h"
#include "schedule.h"
#include "shadow.h"
#include "statistics.h"

namespace ptx_on_cpu {
namespace {

constexpr size_t kSharedBytes = 512 * 1024;  // more than any device has: static variables lie apart
alignas(1024) uint8_t shared_memory[kSharedBytes];

std::map<std::string, const Kernel*>& kernels() {
  static auto* const all = new std::map<std::string, const Kernel*>;
  return *all;
}

void prepare_shared_memory(const Kernel& kernel, uint32_t dynamic_shared) {
  block.shared.clear();
  const auto add = [](const std::string& name, uint32_t offset, uint32_t bytes) {
    Region region;
    region.begin = reinterpret_cast<uintptr_t>(shared_memory) + offset;
    region.bytes = bytes, region.name = name, region.shared = true;
    block.shared.push_back(region);
  };
  for (int i = 0; i < kernel.shared_count; ++i) {
    add(std::string("shared '") + kernel.shared[i].name + "'", kernel.shared[i].offset, kernel.shared[i].bytes);
  }
  if (dynamic_shared) add("dynamic shared memory", kernel.shared_extent, dynamic_shared);
  here.shared = shared_memory;
  here.dynamic_shared = dynamic_shared;
}

// Moments are 32-bit: long before they run out, all accesses are forgotten.
void keep_time() {
  constexpr uint32_t kLate = 1u << 31;
  if (timeline.now < kLate) return;
  forget_all_accesses();
  timeline.now = 1;
}

}  // namespace

Announcement::Announcement(const Kernel& kernel) { kernels()[kernel.name] = &kernel; }

ModuleVariable::ModuleVariable(const char* name, const void* data, size_t bytes) {
  add_allocation(data, bytes, std::string("the variable ") + name, true);
}

const Kernel* find_kernel(const std::string& name) {
  const auto found = kernels().find(name);
  return found == kernels().end() ? nullptr : found->second;
}

std::string run_grid(const Kernel& kernel, Dim3 grid, Dim3 block_size, uint32_t dynamic_shared,
                     const uint8_t* parameters) {
  keep_time();
  timeline.begin_launch();
  forget_releases();
  restart_randomness();
  block.kernel = &kernel, block.parameters = parameters;
  block.threads_in_all = block_size.x * block_size.y * block_size.z;
  if (block.threads.size() < block.threads_in_all) block.threads.resize(block.threads_in_all);
  block.warps.resize((block.threads_in_all + 31) / 32);
  block.ready.fill(0);
  block.fault.clear();
  here.block_size = block_size, here.grid = grid;
  prepare_shared_memory(kernel, dynamic_shared);
  const uint64_t blocks = uint64_t(grid.x) * grid.y * grid.z;
  for (uint64_t i = 0; i < blocks && block.fault.empty(); ++i) {
    const uint64_t number = pick_block(i, blocks);
    here.block = {uint32_t(number % grid.x), uint32_t(number / grid.x % grid.y), uint32_t(number / grid.x / grid.y)};
    memset(shared_memory, 0xFF, kernel.shared_extent + dynamic_shared);  // NaN, so that what nobody wrote shows
    timeline.begin_block(uint32_t(number));
    run_block();
    if (counting) finish_counting_block();
  }
  return block.fault;
}

void trap(Site& site) { fail(site, "the kernel executed trap"); }

}  // namespace ptx_on_cpu
