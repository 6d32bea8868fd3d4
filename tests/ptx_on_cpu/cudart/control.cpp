#include "control.h"

#include "../runtime/memory.h"
#include "../runtime/schedule.h"
#include "../runtime/statistics.h"
#include "device.h"
#include "state.h"

using namespace ptx_on_cpu;

namespace {

using Guard = std::lock_guard<std::recursive_mutex>;

const char* take(std::string& text) {
  static std::string taken;
  taken.swap(text);
  text.clear();
  return taken.c_str();
}

}  // namespace

int ptx_on_cpu_choose_device(int capability) { return choose_device(capability) ? 0 : 1; }
int ptx_on_cpu_set_schedule(const char* words) { return set_schedule(words) ? 0 : 1; }

const char* ptx_on_cpu_take_faults() {
  Guard guard(state().lock);
  State& s = state();
  s.sticky = cudaSuccess;
  if (take_last_error() != cudaSuccess && !s.refusals.empty()) {
    s.faults += "an error that the host code never asked for with cudaGetLastError:\n" + s.refusals;
  }
  s.refusals.clear();
  return take(s.faults);
}
const char* ptx_on_cpu_take_log() {
  Guard guard(state().lock);
  return take(state().log);
}

void ptx_on_cpu_count(int on) { counting = on != 0; }
const char* ptx_on_cpu_take_counts() {
  Guard guard(state().lock);
  std::string json = statistics_json();
  clear_statistics();
  return take(json);
}

void ptx_on_cpu_add_allocation(const void* begin, size_t bytes, const char* name) {
  add_allocation(begin, bytes, name);
}
void ptx_on_cpu_remove_allocation(const void* begin) { remove_allocation(begin); }

int ptx_on_cpu_run(const char* name, const unsigned grid[3], const unsigned block[3], unsigned dynamic_shared,
                   const void* parameters) {
  Guard guard(state().lock);
  const Kernel* kernel = find_kernel(name);
  if (!kernel) {
    state().faults += std::string("no translated kernel ") + name + "\n";
    return 1;
  }
  const std::string fault = run_grid(*kernel, {grid[0], grid[1], grid[2]}, {block[0], block[1], block[2]},
                                     dynamic_shared, static_cast<const uint8_t*>(parameters));
  if (!fault.empty()) state().faults += fault + "\n";
  return fault.empty() ? 0 : 1;
}
