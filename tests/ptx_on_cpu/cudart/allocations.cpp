// Memory of the device is memory of the host, registered so that kernels are held to its bounds.
#include <cstdlib>
#include <cstring>

#include "../runtime/memory.h"
#include "state.h"

using namespace ptx_on_cpu;

namespace {

cudaError_t allocate(void** memory, size_t bytes, const char* name) {
  *memory = nullptr;
  constexpr size_t kAlignment = 256;
  if (bytes && posix_memalign(memory, kAlignment, bytes) != 0) return remember(cudaErrorMemoryAllocation);
  if (bytes) memset(*memory, 0xFF, bytes);  // NaN: what no kernel wrote shows
  add_allocation(*memory, bytes, name);
  return cudaSuccess;
}

cudaError_t release(void* memory) {
  remove_allocation(memory);
  free(memory);
  return cudaSuccess;
}

}  // namespace

extern "C" {

cudaError_t cudaMalloc(void** memory, size_t bytes) { return allocate(memory, bytes, "memory of cudaMalloc"); }
cudaError_t cudaFree(void* memory) { return release(memory); }
cudaError_t cudaMallocAsync(void** memory, size_t bytes, cudaStream_t) { return cudaMalloc(memory, bytes); }
cudaError_t cudaFreeAsync(void* memory, cudaStream_t) { return release(memory); }

cudaError_t cudaHostAlloc(void** memory, size_t bytes, unsigned) {
  return allocate(memory, bytes, "mapped host memory");
}
cudaError_t cudaMallocHost(void** memory, size_t bytes) { return cudaHostAlloc(memory, bytes, 0); }
cudaError_t cudaFreeHost(void* memory) { return release(memory); }
cudaError_t cudaHostGetDevicePointer(void** device, void* host, unsigned) { return *device = host, cudaSuccess; }

cudaError_t cudaMemset(void* memory, int value, size_t bytes) { return memset(memory, value, bytes), cudaSuccess; }
cudaError_t cudaMemsetAsync(void* memory, int value, size_t bytes, cudaStream_t) {
  return cudaMemset(memory, value, bytes);
}
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind) {
  return memcpy(to, from, bytes), cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t) {
  return cudaMemcpy(to, from, bytes, kind);
}

}  // extern "C"
