#include "state.h"

#include "device.h"

namespace ptx_on_cpu {
namespace {
thread_local cudaError_t last_error = cudaSuccess;
}

State& state() {
  static State* const only = new State;
  return *only;
}

cudaError_t remember(cudaError_t error) {
  if (error != cudaSuccess) last_error = error;
  return error;
}

cudaError_t refuse(cudaError_t error, const std::string& kernel, const std::string& why) {
  state().refusals += std::string(cudaGetErrorName(error)) + ": " + kernel + ": " + why + "\n";
  return remember(error);
}

cudaError_t take_last_error() {
  const cudaError_t error = last_error;
  last_error = state().sticky;
  return error;
}

cudaError_t peek_last_error() { return last_error; }

Function* find_function(const void* stub) {
  const auto found = state().functions.find(stub);
  return found == state().functions.end() ? nullptr : &found->second;
}

const Kernel* kernel_of(const Function* function) { return function ? find_kernel(function->name) : nullptr; }

bool has_image(const Kernel& kernel) { return device().major * 10 + device().minor >= kernel.target; }

uint32_t dynamic_shared_limit(const Function& function, const Kernel& kernel) {
  if (function.dynamic_shared_limit >= 0) return uint32_t(function.dynamic_shared_limit);
  return kSharedPerBlockDefault - kernel.shared_bytes;
}

}  // namespace ptx_on_cpu
