// The rendezvous behind barriers and warp collectives.
#pragma once
#include "block.h"

namespace ptx_on_cpu {

// Lanes of `mask` meet at `site`; the last one calls compute(arguments by lane, mask) before all go on. Arguments
// live on the lanes' stacks. Faults: a mask without the caller, with lanes that exited or do not exist, and lanes
// that are met by others at another instruction.
using Compute = void (*)(void* const* arguments, uint32_t mask);
void meet(Site& site, uint32_t mask, void* argument, Compute compute);

// What the threads [first, end) acquired through atomics becomes known to the whole block.
void share_acquired(uint32_t first, uint32_t end);

// What follows from the end of a thread: barriers may now be complete, a collective that waits for it never is.
void thread_exited(uint32_t index);

}  // namespace ptx_on_cpu
