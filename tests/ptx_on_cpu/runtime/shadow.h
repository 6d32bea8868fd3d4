// Checks one access against the last ones to the same bytes, and records it.
#pragma once
#include "access.h"
#include "memory.h"

namespace ptx_on_cpu {

enum class Copy { kNone, kIssued, kLanded };  // of a cp.async, seen as a write

void shadow_read(Region& region, uintptr_t address, uint32_t bytes, const Site& site, Strength strength);
void shadow_write(Region& region, uintptr_t address, uint32_t bytes, const Site& site, Strength strength,
                  Copy copy = Copy::kNone);
// An atomic or volatile access to global memory publishes what its thread fenced before, and learns what others
// published.
void exchange_releases(uintptr_t address);
void forget_releases();

}  // namespace ptx_on_cpu
