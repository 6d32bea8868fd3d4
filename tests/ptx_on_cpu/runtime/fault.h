// A fault ends the launch. Its report says what happened, where, and to which memory.
#pragma once
#include <cstdint>
#include <string>

#include "kernel.h"
#include "memory.h"

namespace ptx_on_cpu {

// Ends the block with `what` and where the current thread stands. Called on a thread's fiber.
[[noreturn]] void fail(const Site& site, const std::string& what);
// "thread (3,0,0)" of the current block, by its index.
std::string thread_name(uint32_t index);
std::string block_name(uint64_t number);
std::string where(const Site& site);
// "byte 64 of shared 'part' (128 bytes)".
std::string place(const Region& region, uintptr_t address);

}  // namespace ptx_on_cpu
