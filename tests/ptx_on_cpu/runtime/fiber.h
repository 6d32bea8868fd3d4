// A fiber: a stack of its own and the place where it stopped. x86-64, System V.
#pragma once
#include <cstddef>

namespace ptx_on_cpu {

inline constexpr size_t kStackBytes = 256 * 1024;  // of address space; pages come as they are touched

// A stack with a page below it that faults, kept for the life of the process. Returns its lowest usable byte.
void* new_stack();
// The first stack pointer of a fiber that will run `entry`, which never returns.
void* prepare_fiber(void* stack, void (*entry)());

}  // namespace ptx_on_cpu

// Saves where the caller stands in *from and goes on at `to`.
extern "C" void ptx_on_cpu_switch(void** from, void* to);
