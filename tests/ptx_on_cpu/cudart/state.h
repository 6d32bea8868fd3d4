// What the stand-in remembers between calls.
#pragma once
#include <cuda_runtime_api.h>

#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "../runtime/launch.h"

namespace ptx_on_cpu {

struct Function {  // a __global__ function that a host object registered
  std::string name;
  int dynamic_shared_limit = -1;  // -1: not raised, 48 KB with the static variables
};

struct State {
  std::recursive_mutex lock;
  std::map<const void*, Function> functions;  // by the address of the host stub
  std::string faults, refusals, log;          // since they were last taken
  cudaError_t sticky = cudaSuccess;           // a fault in a kernel ends the context
};
// Never destroyed: objects unregister at exit.
State& state();

// Remembers an error for cudaGetLastError and returns it.
cudaError_t remember(cudaError_t error);
// An error of the host code: remembered, and kept in words until the host has asked for it.
cudaError_t refuse(cudaError_t error, const std::string& kernel, const std::string& why);
cudaError_t take_last_error();
cudaError_t peek_last_error();
Function* find_function(const void* stub);
// The translated kernel of a registered function; nullptr if there is none.
const Kernel* kernel_of(const Function* function);
// Whether the device can run it: PTX is compiled for its own target and later ones.
bool has_image(const Kernel& kernel);
uint32_t dynamic_shared_limit(const Function& function, const Kernel& kernel);

}  // namespace ptx_on_cpu
