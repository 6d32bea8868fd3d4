// Reads and writes of memory by translated code. Each is checked against the allocations and against what other
// threads did to the same bytes, counted where asked for, and then gives a host pointer.
#pragma once
#include <cstring>

#include "here.h"

namespace ptx_on_cpu {

// Weak accesses race; strong ones (.volatile, .relaxed, .acquire, .release, atom, red) do not race among themselves.
// A constant one (.nc) must not meet bytes that its own launch wrote.
enum class Strength { kWeak, kStrong, kConstant };

const uint8_t* load_global(Site& site, uint64_t address, uint32_t bytes, Strength strength);
const uint8_t* load_shared(Site& site, uint64_t window_address, uint32_t bytes, Strength strength);
const uint8_t* load_generic(Site& site, uint64_t address, uint32_t bytes, Strength strength);
uint8_t* store_global(Site& site, uint64_t address, uint32_t bytes, Strength strength);
uint8_t* store_shared(Site& site, uint64_t window_address, uint32_t bytes, Strength strength);
uint8_t* store_generic(Site& site, uint64_t address, uint32_t bytes, Strength strength);
uint8_t* update_global(Site& site, uint64_t address, uint32_t bytes);  // atom and red
uint8_t* update_shared(Site& site, uint64_t window_address, uint32_t bytes);
uint8_t* update_generic(Site& site, uint64_t address, uint32_t bytes);
// A parameter whose place was computed: an element of an array.
const uint8_t* load_parameter(Site& site, uint64_t address, uint32_t bytes);
// Local memory is on the thread's own stack.
uint8_t* local(Site& site, uint64_t address, uint32_t bytes);

template <typename T>
inline T get(const uint8_t* from, int element) {
  T value;
  memcpy(&value, from + element * sizeof(T), sizeof(T));
  return value;
}
template <typename T>
inline void put(uint8_t* to, int element, T value) {
  memcpy(to + element * sizeof(T), &value, sizeof(T));
}

// membar and fence: what this thread saw and wrote becomes visible to a block that reads a later atomic's result.
void fence();

// Copies whose bytes arrive at some time between the issue and the wait.
void copy_async(Site& site, uint64_t shared, uint64_t global, uint32_t bytes, uint32_t source_bytes);
void commit_async_group();
void wait_async_groups(uint32_t may_be_open);
void wait_all_async();

}  // namespace ptx_on_cpu
