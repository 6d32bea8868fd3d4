// Where the code that runs now stands: PTX's special registers. Set at every switch between threads.
#pragma once
#include "kernel.h"

namespace ptx_on_cpu {

struct Here {
  Dim3 thread, block;     // %tid, %ctaid
  Dim3 block_size, grid;  // %ntid, %nctaid
  uint32_t index = 0;     // of the thread in its block
  uint32_t dynamic_shared = 0;
  uint8_t* shared = nullptr;  // shared memory of the block
  uint32_t lane() const { return index & 31; }
  uint32_t warp() const { return index >> 5; }
  uint32_t lanes_below() const { return (1u << lane()) - 1; }  // %lanemask_lt
};
extern Here here;

// Shared memory begins at this address of the shared window, so that address 0 is never valid.
inline constexpr uint64_t kSharedWindow = 1024;
inline uint64_t generic_to_shared(uint64_t address) {
  return address - reinterpret_cast<uintptr_t>(here.shared) + kSharedWindow;
}
inline uint64_t shared_to_generic(uint64_t address) {
  return address - kSharedWindow + reinterpret_cast<uintptr_t>(here.shared);
}

}  // namespace ptx_on_cpu
