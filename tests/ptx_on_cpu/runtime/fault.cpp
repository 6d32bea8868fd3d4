#include "fault.h"

#include <cxxabi.h>

#include <cstdlib>

#include "block.h"
#include "fiber.h"
#include "here.h"

namespace ptx_on_cpu {
namespace {

std::string triple(uint32_t x, uint32_t y, uint32_t z) {
  return "(" + std::to_string(x) + "," + std::to_string(y) + "," + std::to_string(z) + ")";
}

std::string demangled(const char* name) {
  int status = 0;
  char* text = abi::__cxa_demangle(name, nullptr, nullptr, &status);
  const std::string result = status == 0 ? text : name;
  free(text);
  return result;
}

}  // namespace

std::string thread_name(uint32_t index) {
  const Dim3 size = here.block_size;
  return "thread " + triple(index % size.x, index / size.x % size.y, index / (size.x * size.y));
}

std::string block_name(uint64_t number) {
  const uint64_t x = here.grid.x, y = here.grid.y;
  return "block " + triple(uint32_t(number % x), uint32_t(number / x % y), uint32_t(number / (x * y)));
}

std::string where(const Site& site) {
  std::string text = std::string("'") + site.text + "' (" + block.kernel->file + ":" + std::to_string(site.line);
  return text + (*site.source ? std::string(", ") + site.source : "") + ")";
}

std::string place(const Region& region, uintptr_t address) {
  return "byte " + std::to_string(address - region.begin) + " of " + region.name + " (" + std::to_string(region.bytes) +
         " bytes)";
}

void fail(const Site& site, const std::string& what) {
  const Dim3 b = here.block;
  block.fault = what + "\n  kernel: " + demangled(block.kernel->name) + "\n  instruction: " + where(site) +
                "\n  block " + triple(b.x, b.y, b.z) + ", " + thread_name(here.index);
  ptx_on_cpu_switch(&block.current().stopped_at, block.scheduler);
  abort();  // a failed block is never resumed
}

}  // namespace ptx_on_cpu
