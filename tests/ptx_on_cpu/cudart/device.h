// The GPU that the stand-in pretends to be: limits of each compute capability, from the CUDA programming guide.
#pragma once
#include <cstdint>

namespace ptx_on_cpu {

struct Device {
  int major, minor;
  const char* name;
  int multiprocessors, threads_per_multiprocessor, blocks_per_multiprocessor;
  uint32_t shared_per_multiprocessor, shared_per_block;  // with cudaFuncSetAttribute
  int registers_per_multiprocessor, l2_bytes;
};

inline constexpr uint32_t kSharedPerBlockDefault = 48 * 1024, kSharedReserved = 1024;
inline constexpr uint32_t kMaxThreads = 1024, kMaxBlockZ = 64;
inline constexpr uint32_t kMaxGridX = 2147483647, kMaxGridYZ = 65535;

const Device& device();
// By compute capability, as 80; false if there is none.
bool choose_device(int capability);

}  // namespace ptx_on_cpu
