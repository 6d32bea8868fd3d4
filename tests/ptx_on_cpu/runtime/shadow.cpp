#include "shadow.h"

#include <unordered_map>

#include "block.h"
#include "fault.h"
#include "here.h"

namespace ptx_on_cpu {
namespace {

std::unordered_map<uintptr_t, std::vector<Release>> releases;  // by the address of the atomic variable

// Whether a fence, an atomic and another atomic order a past access of another block before this one.
bool released_to(const std::vector<Acquired>& acquired, uint32_t start, uint32_t moment, uint32_t thread) {
  for (const Acquired& known : acquired) {
    for (size_t i = 0; i < known.count; ++i) {
      const Release& release = (*known.releases)[i];
      if (release.block_start != start) continue;
      if (moment < release.seen[thread / 32] || (thread == release.thread && moment < release.moment)) return true;
    }
  }
  return false;
}

bool ordered_across_blocks(uint32_t moment, uint32_t thread) {
  if (moment < timeline.launch_start) return true;
  if (block.acquired.empty() && block.current().acquired.empty()) return false;
  const uint32_t start = timeline.start_of_block_at(moment);
  return released_to(block.current().acquired, start, moment, thread) ||
         released_to(block.acquired, start, moment, thread);
}

// Whether an access by `thread` at `moment` comes before what the current thread does next. Shared memory is new in
// every block.
bool ordered(const Region& region, uint32_t moment, uint32_t thread) {
  if (moment < timeline.block_start) return region.shared || ordered_across_blocks(moment, thread);
  return thread == here.index || moment < timeline.seen[here.warp()][thread / 32];
}

bool reader_ordered(const Region& region, const Cell& cell) {
  const uint32_t thread = cell.reader & kThreadMask;
  if (cell.read_moment < timeline.block_start) return ordered(region, cell.read_moment, thread);
  if (cell.reader & kManyWarps) {
    for (size_t warp = 0; warp < block.warps.size(); ++warp) {
      if (cell.read_moment >= timeline.seen[here.warp()][warp]) return false;
    }
    return true;
  }
  if (cell.reader & kWholeWarp) return cell.read_moment < timeline.seen[here.warp()][thread / 32];
  return ordered(region, cell.read_moment, thread);
}

std::string other_party(uint32_t moment, uint32_t thread, uint16_t site) {
  std::string who = thread_name(thread);
  if (moment < timeline.block_start) who += " of " + block_name(timeline.block_at(moment));
  return who + ", at " + where(block.kernel->sites[site]);
}

[[noreturn]] void race(const char* kind, const Region& region, uintptr_t address, const Site& site,
                       const std::string& other) {
  fail(site, std::string("race: ") + kind + ", " + place(region, address) + "; nothing orders it after the access by " +
                 other);
}

void check_read(const Region& region, const Cell& cell, uintptr_t address, const Site& site, Strength strength) {
  if (cell.writer & kPendingCopy && cell.write_moment >= timeline.block_start) {
    fail(site, "cp.async read before its wait: " + place(region, address) + " is the target of a copy by " +
                   thread_name(cell.writer & kThreadMask) + " that was not waited for, at " +
                   where(block.kernel->sites[cell.write_site]));
  }
  if (region.shared && cell.write_moment < timeline.block_start) {
    fail(site, "read of shared memory that nobody wrote: " + place(region, address));
  }
  const bool both_strong = strength == Strength::kStrong && cell.writer & kStrongAccess;
  if (!both_strong && !ordered(region, cell.write_moment, cell.writer & kThreadMask)) {
    race("read after write", region, address, site,
         other_party(cell.write_moment, cell.writer & kThreadMask, cell.write_site));
  }
  if (strength == Strength::kConstant && cell.write_moment >= timeline.launch_start) {
    fail(site,
         "read through the constant cache (ld.global.nc, from const __restrict__ or __ldg) of what the same launch "
         "wrote: " +
             place(region, address) + ", written by " +
             other_party(cell.write_moment, cell.writer & kThreadMask, cell.write_site));
  }
}

// Whether barriers have ordered what the current thread did at `moment` before what any thread of its block does next.
bool seen_by_all(uint32_t moment) {
  for (size_t warp = 0; warp < block.warps.size(); ++warp) {
    if (moment >= timeline.seen[warp][here.warp()]) return false;
  }
  return true;
}

void record_read(const Region& region, Cell& cell, const Site& site, bool strong) {
  const uint16_t me = uint16_t(here.index);
  const uint16_t flag = strong ? kStrongAccess : 0;
  uint16_t reader = uint16_t(me | flag);
  if (cell.read_moment < timeline.block_start) {
    if (cell.read_moment >= timeline.launch_start) cell.other_read_moment = cell.read_moment;
  } else if ((cell.reader & kThreadMask) != me || cell.reader & (kWholeWarp | kManyWarps)) {
    if (!reader_ordered(region, cell)) {
      const bool same_warp = (cell.reader & kThreadMask) / 32 == here.warp() && !(cell.reader & kManyWarps);
      reader = uint16_t(me | (cell.reader & flag) | (same_warp ? kWholeWarp : kManyWarps));
    }
  } else if (!seen_by_all(cell.read_moment)) {  // a weak read of its own still counts for the others
    reader = uint16_t(me | (cell.reader & flag));
  }
  cell.reader = reader;
  cell.read_moment = timeline.now;
  cell.read_site = uint16_t(&site - block.kernel->sites);
}

void check_write(const Region& region, const Cell& cell, uintptr_t address, const Site& site, Strength strength) {
  if (cell.writer & kPendingCopy && cell.write_moment >= timeline.block_start) {
    fail(site, "write under a cp.async that was not waited for: " + place(region, address) + ", copied to by " +
                   thread_name(cell.writer & kThreadMask) + " at " + where(block.kernel->sites[cell.write_site]));
  }
  const bool strong = strength == Strength::kStrong;
  if (!(strong && cell.writer & kStrongAccess) && !ordered(region, cell.write_moment, cell.writer & kThreadMask)) {
    race("write after write", region, address, site,
         other_party(cell.write_moment, cell.writer & kThreadMask, cell.write_site));
  }
  if (strong && cell.reader & kStrongAccess) return;
  if (!reader_ordered(region, cell)) {
    race("write after read", region, address, site,
         other_party(cell.read_moment, cell.reader & kThreadMask, cell.read_site));
  }
  if (!region.shared && !ordered_across_blocks(cell.other_read_moment, cell.reader & kThreadMask)) {
    race("write after read", region, address, site, block_name(timeline.block_at(cell.other_read_moment)));
  }
}

// The coarsest granule, as a power of two, into whose grid the access fits.
int granule_of(const Region& region, uintptr_t address, uint32_t bytes) {
  constexpr uint64_t kCoarsest = 16;
  return __builtin_ctzll((address - region.begin) | bytes | kCoarsest);
}

template <typename Visit>
void for_each_cell(Region& region, uintptr_t address, uint32_t bytes, Visit visit) {
  const int granule = granule_of(region, address, bytes);
  if (region.cells.empty() || granule < region.granule) region.refine(granule);
  const size_t first = (address - region.begin) >> region.granule;
  const size_t count = bytes >> region.granule;
  for (size_t i = 0; i < count; ++i) visit(region.cells[first + i], region.begin + ((first + i) << region.granule));
}

}  // namespace

void shadow_read(Region& region, uintptr_t address, uint32_t bytes, const Site& site, Strength strength) {
  for_each_cell(region, address, bytes, [&](Cell& cell, uintptr_t at) {
    check_read(region, cell, at, site, strength);
    record_read(region, cell, site, strength == Strength::kStrong);
  });
}

void shadow_write(Region& region, uintptr_t address, uint32_t bytes, const Site& site, Strength strength, Copy copy) {
  if (region.constant) fail(site, "unsupported: a kernel writes to " + region.name + ", a variable of the module");
  for_each_cell(region, address, bytes, [&](Cell& cell, uintptr_t at) {
    if (copy != Copy::kLanded) check_write(region, cell, at, site, strength);
    cell.write_moment = timeline.now;
    cell.writer = uint16_t(here.index | (strength == Strength::kStrong ? kStrongAccess : 0) |
                           (copy == Copy::kIssued ? kPendingCopy : 0));
    cell.write_site = uint16_t(&site - block.kernel->sites);
  });
}

void exchange_releases(uintptr_t address) {
  Thread& me = block.current();
  std::vector<Release>* found = nullptr;
  if (me.fenced_at) {
    found = &releases[address];
    found->push_back({timeline.block_start, here.index, me.fenced_at, timeline.seen[here.warp()]});
  } else if (const auto known = releases.find(address); known != releases.end()) {
    found = &known->second;
  }
  if (found && !found->empty()) me.acquired.push_back({found, found->size()});
}

void forget_releases() { releases.clear(); }

void fence() { block.current().fenced_at = ++timeline.now; }

}  // namespace ptx_on_cpu
