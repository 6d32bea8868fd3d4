// The one device, its properties, streams and errors.
#include <cstdio>
#include <cstring>

#include "device.h"
#include "state.h"

using namespace ptx_on_cpu;

extern "C" {

cudaError_t cudaGetDevice(int* id) { return *id = 0, cudaSuccess; }
cudaError_t cudaSetDevice(int id) { return id == 0 ? cudaSuccess : remember(cudaErrorInvalidDevice); }
cudaError_t cudaGetDeviceCount(int* count) { return *count = 1, cudaSuccess; }

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int id) {
  if (id != 0) return remember(cudaErrorInvalidDevice);
  const Device& d = device();
  switch (attribute) {
    case cudaDevAttrComputeCapabilityMajor:
      *value = d.major;
      break;
    case cudaDevAttrComputeCapabilityMinor:
      *value = d.minor;
      break;
    case cudaDevAttrMultiProcessorCount:
      *value = d.multiprocessors;
      break;
    case cudaDevAttrWarpSize:
      *value = 32;
      break;
    case cudaDevAttrMaxThreadsPerBlock:
      *value = int(kMaxThreads);
      break;
    case cudaDevAttrMaxThreadsPerMultiProcessor:
      *value = d.threads_per_multiprocessor;
      break;
    case cudaDevAttrMaxBlocksPerMultiprocessor:
      *value = d.blocks_per_multiprocessor;
      break;
    case cudaDevAttrMaxGridDimX:
      *value = int(kMaxGridX);
      break;
    case cudaDevAttrMaxGridDimY:
    case cudaDevAttrMaxGridDimZ:
      *value = int(kMaxGridYZ);
      break;
    case cudaDevAttrMaxSharedMemoryPerBlock:
      *value = int(kSharedPerBlockDefault);
      break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = int(d.shared_per_block);
      break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
      *value = int(d.shared_per_multiprocessor);
      break;
    case cudaDevAttrMaxRegistersPerBlock:
    case cudaDevAttrMaxRegistersPerMultiprocessor:
      *value = d.registers_per_multiprocessor;
      break;
    case cudaDevAttrL2CacheSize:
      *value = d.l2_bytes;
      break;
    case cudaDevAttrCanMapHostMemory:
    case cudaDevAttrUnifiedAddressing:
      *value = 1;
      break;
    default:
      return remember(cudaErrorNotSupported);
  }
  return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int id) {
  if (id != 0) return remember(cudaErrorInvalidDevice);
  const Device& d = device();
  memset(properties, 0, sizeof *properties);
  snprintf(properties->name, sizeof properties->name, "%s", d.name);
  properties->major = d.major, properties->minor = d.minor;
  properties->warpSize = 32;
  properties->multiProcessorCount = d.multiprocessors;
  properties->maxThreadsPerBlock = int(kMaxThreads);
  properties->maxThreadsPerMultiProcessor = d.threads_per_multiprocessor;
  properties->sharedMemPerBlock = kSharedPerBlockDefault;
  properties->sharedMemPerBlockOptin = d.shared_per_block;
  properties->sharedMemPerMultiprocessor = d.shared_per_multiprocessor;
  properties->regsPerBlock = properties->regsPerMultiprocessor = d.registers_per_multiprocessor;
  properties->l2CacheSize = d.l2_bytes;
  properties->canMapHostMemory = properties->unifiedAddressing = 1;
  return cudaSuccess;
}

// Every call is finished when it returns.
static cudaError_t wait(const char* function) {
  std::lock_guard<std::recursive_mutex> guard(state().lock);
  state().log += std::string(function) + "\n";
  return remember(state().sticky);
}
cudaError_t cudaStreamSynchronize(cudaStream_t) { return wait("cudaStreamSynchronize"); }
cudaError_t cudaDeviceSynchronize() { return wait("cudaDeviceSynchronize"); }
cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus* status) {
  return *status = cudaStreamCaptureStatusNone, cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int* version) { return *version = CUDART_VERSION, cudaSuccess; }
cudaError_t cudaRuntimeGetVersion(int* version) { return *version = CUDART_VERSION, cudaSuccess; }

cudaError_t cudaPeekAtLastError() { return peek_last_error(); }
cudaError_t cudaGetLastError() { return take_last_error(); }

#define FOR_EACH_ERROR(X)                                                                        \
  X(cudaSuccess, "no error")                                                                     \
  X(cudaErrorInvalidValue, "invalid argument")                                                   \
  X(cudaErrorMemoryAllocation, "out of memory")                                                  \
  X(cudaErrorInvalidConfiguration, "invalid configuration argument")                             \
  X(cudaErrorMissingConfiguration, "__global__ function call is not configured")                 \
  X(cudaErrorInvalidDeviceFunction, "invalid device function")                                   \
  X(cudaErrorInvalidDevice, "invalid device ordinal")                                            \
  X(cudaErrorNoDevice, "no CUDA-capable device is detected")                                     \
  X(cudaErrorInsufficientDriver, "CUDA driver version is insufficient for CUDA runtime version") \
  X(cudaErrorNoKernelImageForDevice, "no kernel image is available for execution on the device") \
  X(cudaErrorLaunchFailure, "unspecified launch failure")                                        \
  X(cudaErrorNotSupported, "operation not supported")

const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
#define X(code, words) \
  case code:           \
    return #code;
    FOR_EACH_ERROR(X)
#undef X
    default:
      return "unrecognized error code";
  }
}
const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
#define X(code, words) \
  case code:           \
    return words;
    FOR_EACH_ERROR(X)
#undef X
    default:
      return "unrecognized error code";
  }
}

}  // extern "C"
