// Registration of host objects and launches: checked as a driver checks them, then run on the CPU.
#include <cstring>

#include "../runtime/launch.h"
#include "device.h"
#include "state.h"

using namespace ptx_on_cpu;

namespace {

std::string text(dim3 size) {
  return std::to_string(size.x) + "," + std::to_string(size.y) + "," + std::to_string(size.z);
}

// What a driver would say about the launch; "" if it would take it.
std::string objection(const Function& function, const Kernel& kernel, dim3 grid, dim3 block, size_t shared,
                      cudaError_t* error) {
  *error = cudaErrorInvalidConfiguration;
  const uint64_t threads = uint64_t(block.x) * block.y * block.z;
  if (!grid.x || !grid.y || !grid.z || grid.x > kMaxGridX || grid.y > kMaxGridYZ || grid.z > kMaxGridYZ) {
    return "grid " + text(grid) + ", allowed 1 to 2147483647,65535,65535";
  }
  if (!threads || threads > kMaxThreads || block.z > kMaxBlockZ)
    return "block " + text(block) + ", allowed 1 to 1024 threads";
  *error = cudaErrorInvalidValue;
  if (threads > kernel.max_threads || (kernel.exact_threads && threads != kernel.max_threads)) {
    return "block " + text(block) + " against __launch_bounds__ of " + std::to_string(kernel.max_threads);
  }
  if (shared > dynamic_shared_limit(function, kernel)) {
    return std::to_string(shared) + " bytes of dynamic shared memory, allowed " +
           std::to_string(dynamic_shared_limit(function, kernel)) + " until cudaFuncSetAttribute raises it";
  }
  return "";
}

cudaError_t launch(const Function* function, dim3 grid, dim3 block, void** arguments, size_t shared,
                   cudaStream_t stream) {
  State& s = state();
  std::lock_guard<std::recursive_mutex> guard(s.lock);
  if (s.sticky != cudaSuccess) return remember(s.sticky);
  if (!function) return refuse(cudaErrorInvalidDeviceFunction, "launch", "the kernel was never registered");
  const Kernel* kernel = kernel_of(function);
  if (!kernel) return refuse(cudaErrorInvalidDeviceFunction, function->name, "no translated PTX entry of this name");
  if (!has_image(*kernel)) return remember(cudaErrorNoKernelImageForDevice);
  cudaError_t error;
  const std::string why = objection(*function, *kernel, grid, block, shared, &error);
  if (!why.empty()) return refuse(error, function->name, why);
  // How many arguments there are and how large, only the PTX says. 16-byte aligned.
  std::vector<long double> packed(kernel->parameter_bytes / sizeof(long double) + 1);
  for (int i = 0; i < kernel->parameter_count; ++i) {
    const Parameter& parameter = kernel->parameters[i];
    memcpy(reinterpret_cast<char*>(packed.data()) + parameter.offset, arguments[i], parameter.bytes);
  }
  char where[32];
  snprintf(where, sizeof where, "%p", static_cast<void*>(stream));
  s.log += function->name + " grid=" + text(grid) + " block=" + text(block) + " shared=" + std::to_string(shared) +
           " stream=" + where + "\n";
  const std::string fault = run_grid(*kernel, {grid.x, grid.y, grid.z}, {block.x, block.y, block.z}, uint32_t(shared),
                                     reinterpret_cast<const uint8_t*>(packed.data()));
  if (fault.empty()) return cudaSuccess;
  s.faults += fault + "\n";
  return remember(s.sticky = cudaErrorLaunchFailure);
}

struct Configuration {
  dim3 grid, block;
  size_t shared;
  cudaStream_t stream;
};
thread_local std::vector<Configuration> configurations;  // of launches between <<<>>> and the host stub

}  // namespace

extern "C" {

// ---- what nvcc's host code calls ----------------------------------------------------------------------------

void** __cudaRegisterFatBinary(void*) {  // the GPU code inside is not used
  static void* handle;
  return &handle;
}
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
char __cudaInitModule(void**) { return 1; }

void __cudaRegisterFunction(void**, const char* stub, char*, const char* name, int, uint3*, uint3*, dim3*, dim3*,
                            int*) {
  std::lock_guard<std::recursive_mutex> guard(state().lock);
  state().functions[stub].name = name;
}
// Device variables live in the translated code; copying to them is not offered, so it does not link.
void __cudaRegisterVar(void**, char*, char*, const char*, int, size_t, int, int) {}

unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, struct CUstream_st* stream) {
  configurations.push_back({grid, block, shared, stream});
  return 0;
}
cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared, void* stream) {
  if (configurations.empty()) return remember(cudaErrorMissingConfiguration);
  const Configuration last = configurations.back();
  configurations.pop_back();
  *grid = last.grid, *block = last.block, *shared = last.shared, *static_cast<cudaStream_t*>(stream) = last.stream;
  return cudaSuccess;
}
// The host stub keeps the handle for good; the kernel itself is looked up at each launch.
cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* stub) {
  *kernel = reinterpret_cast<cudaKernel_t>(find_function(stub));
  return *kernel ? cudaSuccess : remember(cudaErrorInvalidDeviceFunction);
}
cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void** arguments, size_t shared,
                               cudaStream_t stream) {
  return launch(reinterpret_cast<const Function*>(kernel), grid, block, arguments, shared, stream);
}

// ---- the public calls ---------------------------------------------------------------------------------------

cudaError_t cudaLaunchKernel(const void* stub, dim3 grid, dim3 block, void** arguments, size_t shared,
                             cudaStream_t stream) {
  return launch(find_function(stub), grid, block, arguments, shared, stream);
}
cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* stub, void** arguments) {
  for (unsigned i = 0; i < config->numAttrs; ++i) {  // clusters and cooperative launches are not modelled
    const cudaLaunchAttributeID id = config->attrs[i].id;
    if (id != cudaLaunchAttributeProgrammaticStreamSerialization && id != cudaLaunchAttributePriority) {
      return refuse(cudaErrorNotSupported, "cudaLaunchKernelExC", "launch attribute " + std::to_string(id));
    }
  }
  return launch(find_function(stub), config->gridDim, config->blockDim, arguments, config->dynamicSmemBytes,
                config->stream);
}

}  // extern "C"
