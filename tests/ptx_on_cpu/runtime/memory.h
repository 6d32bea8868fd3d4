// The allocations that kernels may touch, and a shadow of each: who last wrote and read every part of it.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace ptx_on_cpu {

// Last accesses of one granule. Flags share a field with the thread's number.
struct Cell {
  uint32_t write_moment, read_moment;
  uint32_t other_read_moment;  // by another block of the same launch
  uint16_t writer, reader;
  uint16_t write_site, read_site;  // instructions of the kernel
};
inline constexpr uint16_t kThreadMask = 0x03ff;
inline constexpr uint16_t kStrongAccess = 0x8000;  // atomic or volatile
inline constexpr uint16_t kPendingCopy = 0x4000;   // writer: a cp.async that was not waited for
inline constexpr uint16_t kWholeWarp = 0x4000;     // reader: several threads of its warp
inline constexpr uint16_t kManyWarps = 0x2000;     // reader: threads of several warps

struct Region {
  uintptr_t begin = 0;
  size_t bytes = 0;
  std::string name;
  bool shared = false;
  bool constant = false;  // a table of the module, of which each kernel has its own copy
  // Cells cover 1 << granule bytes each, as many as all accesses so far allow; a finer access splits them.
  int granule = 4;
  std::vector<Cell> cells;

  bool contains(uintptr_t address, size_t count) const {
    return address >= begin && count <= bytes && address - begin <= bytes - count;
  }
  void refine(int wanted);
  void forget() { cells.clear(), granule = 4; }
};

// Global memory. Thread-safe: torch allocates while a kernel runs elsewhere.
void add_allocation(const void* begin, size_t bytes, const std::string& name, bool constant = false);
void remove_allocation(const void* begin);
Region* find_allocation(uintptr_t address);
// The allocation that ends last before `address`, for reports; nullptr if there is none.
const Region* allocation_below(uintptr_t address);
void forget_all_accesses();

}  // namespace ptx_on_cpu
