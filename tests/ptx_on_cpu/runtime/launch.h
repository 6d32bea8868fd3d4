// Runs a grid. The stand-in for libcudart has checked the launch before.
#pragma once
#include <string>

#include "kernel.h"

namespace ptx_on_cpu {

const Kernel* find_kernel(const std::string& name);
// Returns the report of the first fault; empty if there was none. One launch at a time.
std::string run_grid(const Kernel& kernel, Dim3 grid, Dim3 block_size, uint32_t dynamic_shared,
                     const uint8_t* parameters);

}  // namespace ptx_on_cpu
