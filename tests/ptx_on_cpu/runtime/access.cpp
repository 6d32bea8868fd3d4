#include "access.h"

#include "block.h"
#include "fault.h"
#include "fiber.h"
#include "meetings.h"
#include "shadow.h"
#include "statistics.h"

namespace ptx_on_cpu {
namespace {

std::string bytes_at(uint32_t bytes, uint64_t address) {
  char text[64];
  snprintf(text, sizeof text, "%u bytes at 0x%llx", bytes, (unsigned long long)address);
  return text;
}

void check_alignment(const Site& site, uint64_t address, uint32_t bytes) {
  if (address % bytes) fail(site, "misaligned access: " + bytes_at(bytes, address));
}

std::string distance(uintptr_t address, const Region* below) {
  if (!below) return ", in no allocation";
  const std::string into = std::to_string(address - below->begin);
  return ", " + into + " bytes after the begin of " + below->name + ", which has " + std::to_string(below->bytes);
}

Region& shared_region(Site& site, uint64_t window_address, uint32_t bytes, uintptr_t* address) {
  check_alignment(site, window_address, bytes);
  *address = shared_to_generic(window_address);
  if (site.launch == timeline.launch_start && site.region->contains(*address, bytes)) return *site.region;
  const Region* below = nullptr;
  for (Region& region : block.shared) {
    if (region.contains(*address, bytes)) {
      site.region = &region, site.launch = timeline.launch_start;
      return region;
    }
    if (region.begin <= *address) below = &region;
  }
  fail(site, "out of bounds: " + std::to_string(bytes) + " bytes at offset " +
                 std::to_string(int64_t(window_address - kSharedWindow)) + " of shared memory" +
                 distance(*address, below));
}

Region& global_region(Site& site, uint64_t address, uint32_t bytes) {
  check_alignment(site, address, bytes);
  if (site.launch == timeline.launch_start && site.region->contains(address, bytes)) return *site.region;
  Region* found = find_allocation(address);
  if (!found || !found->contains(address, bytes)) {
    fail(site, "out of bounds: " + bytes_at(bytes, address) + " of global memory" +
                   distance(address, found ? found : allocation_below(address)));
  }
  site.region = found, site.launch = timeline.launch_start;
  return *found;
}

bool is_shared(uint64_t address) {
  constexpr uint64_t kReach = 256 * 1024;
  return address - reinterpret_cast<uintptr_t>(here.shared) < kReach;
}
bool is_parameter(uint64_t address) {
  return address - reinterpret_cast<uintptr_t>(block.parameters) < block.kernel->parameter_bytes;
}
bool is_local(uint64_t address) { return address - reinterpret_cast<uintptr_t>(block.current().stack) < 256 * 1024; }
uint8_t* pointer(uint64_t address) { return reinterpret_cast<uint8_t*>(address); }

}  // namespace

const uint8_t* load_global(Site& site, uint64_t address, uint32_t bytes, Strength strength) {
  Region& region = global_region(site, address, bytes);
  if (strength == Strength::kStrong) pause(), exchange_releases(address);
  shadow_read(region, address, bytes, site, strength);
  if (counting) count_global(site, address, bytes);
  return pointer(address);
}

const uint8_t* load_shared(Site& site, uint64_t window_address, uint32_t bytes, Strength strength) {
  uintptr_t address;
  Region& region = shared_region(site, window_address, bytes, &address);
  if (strength == Strength::kStrong) pause();
  shadow_read(region, address, bytes, site, strength);
  if (counting) count_shared(site, window_address, bytes);
  return pointer(address);
}

const uint8_t* load_generic(Site& site, uint64_t address, uint32_t bytes, Strength strength) {
  if (is_shared(address)) return load_shared(site, generic_to_shared(address), bytes, strength);
  if (is_local(address)) return local(site, address, bytes);
  if (is_parameter(address)) return load_parameter(site, address, bytes);
  return load_global(site, address, bytes, strength);
}

uint8_t* store_global(Site& site, uint64_t address, uint32_t bytes, Strength strength) {
  Region& region = global_region(site, address, bytes);
  if (strength == Strength::kStrong) exchange_releases(address);
  shadow_write(region, address, bytes, site, strength);
  if (counting) count_global(site, address, bytes);
  return pointer(address);
}

uint8_t* store_shared(Site& site, uint64_t window_address, uint32_t bytes, Strength strength) {
  uintptr_t address;
  Region& region = shared_region(site, window_address, bytes, &address);
  shadow_write(region, address, bytes, site, strength);
  if (counting) count_shared(site, window_address, bytes);
  return pointer(address);
}

uint8_t* store_generic(Site& site, uint64_t address, uint32_t bytes, Strength strength) {
  if (is_shared(address)) return store_shared(site, generic_to_shared(address), bytes, strength);
  if (is_local(address)) return local(site, address, bytes);
  return store_global(site, address, bytes, strength);
}

uint8_t* update_global(Site& site, uint64_t address, uint32_t bytes) {
  Region& region = global_region(site, address, bytes);
  pause();
  exchange_releases(address);
  shadow_read(region, address, bytes, site, Strength::kStrong);
  shadow_write(region, address, bytes, site, Strength::kStrong);
  return pointer(address);
}

uint8_t* update_shared(Site& site, uint64_t window_address, uint32_t bytes) {
  uintptr_t address;
  Region& region = shared_region(site, window_address, bytes, &address);
  pause();
  shadow_read(region, address, bytes, site, Strength::kStrong);
  shadow_write(region, address, bytes, site, Strength::kStrong);
  return pointer(address);
}

uint8_t* update_generic(Site& site, uint64_t address, uint32_t bytes) {
  return is_shared(address) ? update_shared(site, generic_to_shared(address), bytes)
                            : update_global(site, address, bytes);
}

const uint8_t* load_parameter(Site& site, uint64_t address, uint32_t bytes) {
  check_alignment(site, address, bytes);
  if (!is_parameter(address) || !is_parameter(address + bytes - 1)) {
    fail(site, "out of bounds: " + bytes_at(bytes, address) + " of the kernel's parameters");
  }
  return pointer(address);
}

uint8_t* local(Site& site, uint64_t address, uint32_t bytes) {
  check_alignment(site, address, bytes);
  if (!is_local(address)) fail(site, "out of bounds: " + bytes_at(bytes, address) + " of local memory");
  return pointer(address);
}

}  // namespace ptx_on_cpu
