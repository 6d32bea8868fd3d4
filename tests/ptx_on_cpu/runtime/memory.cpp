#include "memory.h"

#include <map>
#include <mutex>

namespace ptx_on_cpu {
namespace {

struct Allocations {
  std::mutex lock;
  std::map<uintptr_t, Region> by_end;  // by the address after the last byte
};
Allocations& allocations() {
  static Allocations* const all = new Allocations;  // never destroyed: tensors are freed until the very end
  return *all;
}

}  // namespace

void Region::refine(int wanted) {
  if (cells.empty()) {
    granule = wanted < granule ? wanted : granule;
    cells.resize((bytes >> granule) + 1);
  }
  if (wanted >= granule) return;
  std::vector<Cell> finer((bytes >> wanted) + 1);
  for (size_t i = 0; i < finer.size(); ++i) finer[i] = cells[i >> (granule - wanted)];
  cells.swap(finer);
  granule = wanted;
}

void add_allocation(const void* begin, size_t bytes, const std::string& name, bool constant) {
  if (begin == nullptr || bytes == 0) return;
  std::lock_guard<std::mutex> guard(allocations().lock);
  Region region;
  region.begin = reinterpret_cast<uintptr_t>(begin), region.bytes = bytes, region.name = name,
  region.constant = constant;
  auto& by_end = allocations().by_end;
  for (auto old = by_end.upper_bound(region.begin); old != by_end.end() && old->second.begin < region.begin + bytes;) {
    old = by_end.erase(old);  // freed without a word
  }
  by_end[region.begin + bytes] = region;
}

void remove_allocation(const void* begin) {
  std::lock_guard<std::mutex> guard(allocations().lock);
  const auto found = allocations().by_end.upper_bound(reinterpret_cast<uintptr_t>(begin));
  if (found != allocations().by_end.end() && found->second.begin == reinterpret_cast<uintptr_t>(begin)) {
    allocations().by_end.erase(found);
  }
}

Region* find_allocation(uintptr_t address) {
  std::lock_guard<std::mutex> guard(allocations().lock);
  const auto found = allocations().by_end.upper_bound(address);
  return found != allocations().by_end.end() && found->second.begin <= address ? &found->second : nullptr;
}

const Region* allocation_below(uintptr_t address) {
  std::lock_guard<std::mutex> guard(allocations().lock);
  auto found = allocations().by_end.upper_bound(address);
  return found == allocations().by_end.begin() ? nullptr : &(--found)->second;
}

void forget_all_accesses() {
  std::lock_guard<std::mutex> guard(allocations().lock);
  for (auto& entry : allocations().by_end) entry.second.forget();
}

}  // namespace ptx_on_cpu
