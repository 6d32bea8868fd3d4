// cp.async: the bytes arrive at the issue, or at the wait, by a coin toss; until the wait nobody may read them.
#include "access.h"
#include "block.h"
#include "fault.h"
#include "schedule.h"
#include "shadow.h"

namespace ptx_on_cpu {
namespace {

void land(AsyncCopy& copy) {
  if (copy.landed) return;
  uint8_t* to = reinterpret_cast<uint8_t*>(copy.shared);
  memcpy(to, copy.from, copy.source_bytes);
  memset(to + copy.source_bytes, 0, copy.bytes - copy.source_bytes);
  copy.landed = true;
}

Region& region_of(const AsyncCopy& copy) {
  for (Region& region : block.shared) {
    if (region.contains(copy.shared, copy.bytes)) return region;
  }
  fail(*copy.site, "cp.async: its target has vanished");
}

}  // namespace

void copy_async(Site& site, uint64_t shared, uint64_t global, uint32_t bytes, uint32_t source_bytes) {
  if (source_bytes > bytes) source_bytes = bytes;
  // The target is checked as a store; a source of no bytes may point anywhere.
  const uint8_t* from = nullptr;
  if (source_bytes == bytes) {
    from = load_global(site, global, bytes, Strength::kWeak);
  } else if (source_bytes > 0) {
    for (uint32_t i = 0; i < source_bytes; ++i) load_global(site, global + i, 1, Strength::kWeak);
    from = reinterpret_cast<const uint8_t*>(global);
  }
  site.launch = 0;  // the region that it remembers is the source's
  AsyncCopy copy{&site, shared_to_generic(shared), from, bytes, source_bytes, false};
  for (Region& region : block.shared) {
    if (!region.contains(copy.shared, bytes)) continue;
    if (shared % bytes)
      fail(site, "misaligned access: cp.async to shared offset " + std::to_string(shared - kSharedWindow));
    shadow_write(region, copy.shared, bytes, site, Strength::kWeak, Copy::kIssued);
    if (schedule.kind != Schedule::kRandom ? schedule.kind == Schedule::kInOrder : random_below(2) == 0) land(copy);
    block.current().open_copies.push_back(copy);
    return;
  }
  fail(site, "out of bounds: cp.async of " + std::to_string(bytes) + " bytes to shared offset " +
                 std::to_string(int64_t(shared - kSharedWindow)));
}

void commit_async_group() {
  Thread& me = block.current();
  me.groups.push_back(std::move(me.open_copies));
  me.open_copies.clear();
}

void wait_async_groups(uint32_t may_be_open) {
  Thread& me = block.current();
  while (me.groups.size() > may_be_open) {
    for (AsyncCopy& copy : me.groups.front()) {
      land(copy);
      shadow_write(region_of(copy), copy.shared, copy.bytes, *copy.site, Strength::kWeak, Copy::kLanded);
    }
    me.groups.erase(me.groups.begin());
  }
}

void wait_all_async() {
  commit_async_group();
  wait_async_groups(0);
}

}  // namespace ptx_on_cpu
