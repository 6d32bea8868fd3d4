// Attributes of kernels, and occupancy.
#include <algorithm>
#include <cstring>

#include "device.h"
#include "state.h"

using namespace ptx_on_cpu;

extern "C" {

cudaError_t cudaFuncSetAttribute(const void* stub, cudaFuncAttribute attribute, int value) {
  std::lock_guard<std::recursive_mutex> guard(state().lock);
  Function* function = find_function(stub);
  const Kernel* kernel = kernel_of(function);
  if (!kernel) return refuse(cudaErrorInvalidDeviceFunction, "cudaFuncSetAttribute", "no translated PTX entry");
  if (!has_image(*kernel)) return remember(cudaErrorNoKernelImageForDevice);
  if (attribute == cudaFuncAttributePreferredSharedMemoryCarveout) return cudaSuccess;  // a hint
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return remember(cudaErrorNotSupported);
  if (value < 0 || uint32_t(value) + kernel->shared_bytes > device().shared_per_block) {
    return refuse(cudaErrorInvalidValue, function->name,
                  std::to_string(value) +
                      " bytes of dynamic shared memory asked for by cudaFuncSetAttribute, a block of " + device().name +
                      " has " + std::to_string(device().shared_per_block));
  }
  function->dynamic_shared_limit = value;
  return cudaSuccess;
}

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* out, const void* stub) {
  const Function* function = find_function(stub);
  const Kernel* kernel = kernel_of(function);
  if (!kernel) return remember(cudaErrorInvalidDeviceFunction);
  memset(out, 0, sizeof *out);  // registers and local memory are not known from PTX
  out->sharedSizeBytes = kernel->shared_bytes;
  out->maxThreadsPerBlock = int(kernel->max_threads);
  out->maxDynamicSharedSizeBytes = int(dynamic_shared_limit(*function, *kernel));
  out->ptxVersion = out->binaryVersion = device().major * 10 + device().minor;
  return cudaSuccess;
}

// An upper bound: threads and shared memory count, registers do not.
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, const void* stub, int threads,
                                                                   size_t shared, unsigned) {
  const Function* function = find_function(stub);
  const Kernel* kernel = kernel_of(function);
  if (!kernel) return remember(cudaErrorInvalidDeviceFunction);
  if (threads < 1) return remember(cudaErrorInvalidValue);
  const Device& d = device();
  const bool fits = uint32_t(threads) <= kernel->max_threads && shared <= dynamic_shared_limit(*function, *kernel);
  const int by_shared = int(d.shared_per_multiprocessor / (kernel->shared_bytes + shared + kSharedReserved));
  const int by_threads = d.threads_per_multiprocessor / ((threads + 31) / 32 * 32);
  *blocks = fits ? std::min({d.blocks_per_multiprocessor, by_threads, by_shared}) : 0;
  return cudaSuccess;
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void* stub, int threads, size_t shared) {
  return cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(blocks, stub, threads, shared, 0);
}

}  // extern "C"
