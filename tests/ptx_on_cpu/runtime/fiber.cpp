#include "fiber.h"

#include <sys/mman.h>

#include <cstdint>
#include <new>

// The callee-saved registers go to the old stack and come back from the new one.
asm(R"(
.text
.globl ptx_on_cpu_switch
.type ptx_on_cpu_switch, @function
ptx_on_cpu_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size ptx_on_cpu_switch, .-ptx_on_cpu_switch
)");

namespace ptx_on_cpu {

void* new_stack() {
  constexpr size_t kGuard = 4096;
  void* memory =
      mmap(nullptr, kStackBytes + kGuard, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED || mprotect(memory, kGuard, PROT_NONE) != 0) throw std::bad_alloc();
  return static_cast<char*>(memory) + kGuard;
}

void* prepare_fiber(void* stack, void (*entry)()) {
  constexpr int kSavedRegisters = 6;
  void** top = reinterpret_cast<void**>(static_cast<char*>(stack) + kStackBytes);
  *--top = nullptr;  // keeps the stack aligned as after a call; entry has nowhere to return to
  *--top = reinterpret_cast<void*>(entry);
  for (int i = 0; i < kSavedRegisters; ++i) *--top = nullptr;
  return top;
}

}  // namespace ptx_on_cpu
