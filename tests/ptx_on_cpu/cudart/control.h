// What tests ask of the runner, beside the calls of CUDA. Plain C, so that Python's ctypes can call it.
#pragma once
#include <stddef.h>

extern "C" {
// As cudaDeviceGetAttribute will report it, and as limits are held to: 80 for sm_80. 0 on success. 75 is a
// device that no PTX of ours can be compiled for.
int ptx_on_cpu_choose_device(int capability);
// "in-order", "reverse" or "random:SEED". 0 on success.
int ptx_on_cpu_set_schedule(const char* words);
// The reports of faults since the last call, and of refused calls whose error nobody asked for; "" if there were none.
// Ends the state of error that a fault leaves behind. The text lives until the next call.
const char* ptx_on_cpu_take_faults();
// One line a launch since the last call: "kernel grid=x,y,z block=x,y,z shared=bytes stream=0x..", and the name of each
// function that waited for the device.
const char* ptx_on_cpu_take_log();
// Counts bank conflicts and sectors from now on; the report is JSON, see statistics.h.
void ptx_on_cpu_count(int on);
const char* ptx_on_cpu_take_counts();
// Memory that kernels may touch.
void ptx_on_cpu_add_allocation(const void* begin, size_t bytes, const char* name);
void ptx_on_cpu_remove_allocation(const void* begin);
// Runs a translated kernel by its PTX name; the parameters are laid out as in the PTX. 0 on success.
int ptx_on_cpu_run(const char* kernel, const unsigned grid[3], const unsigned block[3], unsigned dynamic_shared,
                   const void* parameters);
}
