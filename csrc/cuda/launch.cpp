#include "launch.h"

#include <array>
#include <mutex>
#include <utility>
#include <vector>

#ifndef MTP_EXT_CUDA_TARGETS  // setup.py says what nvcc was asked for
#define MTP_EXT_CUDA_TARGETS "unknown targets"
#endif

namespace mtp_ext {
namespace {

using torch::stable::accelerator::DeviceGuard;

// What is kept of a device from its first launch on.
struct Device {
  bool guarded = false;  // false where kernels are executed on a CPU
  int multiprocessors = 0;
  unsigned long long* word = nullptr;
};

std::mutex mutex;
std::array<Device, 64> devices;
std::vector<const char*> ops;  // ops[i] has number i + 1 in a status word

Device& open_device(const char* op, int32_t index, bool guarded) {
  Device& device = devices.at(index);
  if (device.word) return device;
  check_launch(op, cudaDeviceGetAttribute(&device.multiprocessors, cudaDevAttrMultiProcessorCount, index));
  void* word = nullptr;
  check_launch(op, cudaHostAlloc(&word, sizeof(unsigned long long), cudaHostAllocMapped | cudaHostAllocPortable));
  device.guarded = guarded;
  device.word = static_cast<unsigned long long*>(word);
  *device.word = 0;
  return device;
}

uint32_t number_of(const char* op) {
  for (size_t i = 0; i < ops.size(); ++i) {
    if (ops[i] == op) return static_cast<uint32_t>(i) + 1;
  }
  ops.push_back(op);
  return static_cast<uint32_t>(ops.size());
}

std::string sentence_of(unsigned long long word) {
  std::string sentence = fault_sentence(static_cast<Fault>(word >> 8 & 0xff));
  sentence.replace(sentence.find('#'), 1, std::to_string(word >> 16));
  return std::string(ops.at((word & 0xff) - 1)) + ": " + sentence;
}

std::string compute_capability() {
  int device = 0, major = 0, minor = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
  return std::to_string(major) + "." + std::to_string(minor);
}

// Waits for every device on which something was launched. What kernels met there since the last call, a line a device.
std::string take_faults() {
  const std::lock_guard lock(mutex);
  std::string lines;
  for (size_t i = 0; i < devices.size(); ++i) {
    const Device& device = devices[i];
    if (!device.word) continue;
    std::optional<DeviceGuard> guard;
    if (device.guarded) guard.emplace(static_cast<int32_t>(i));
    check_launch("check", cudaDeviceSynchronize());
    const unsigned long long word = std::exchange(*device.word, 0ull);
    if (word) lines += (lines.empty() ? "" : "\n") + sentence_of(word);
  }
  return lines;
}

}  // namespace

Launch::Launch(const char* op, const Tensor& like) {
  const bool guarded = like.is_cuda();
  const int32_t index = guarded ? like.get_device_index() : 0;
  if (guarded) {
    guard_.emplace(index);
    stream = static_cast<cudaStream_t>(torch::stable::accelerator::getCurrentStream(index).nativeHandle());
  }
  const std::lock_guard lock(mutex);
  const Device& device = open_device(op, index, guarded);
  multiprocessors = device.multiprocessors;
  status = {device.word, number_of(op)};
}

void check_launch(const char* op, cudaError_t error) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // which the next launch would otherwise take for its own
  // The last is what asking for an attribute of the kernel may give.
  if (error == cudaErrorNoKernelImageForDevice || error == cudaErrorUnsupportedPtxVersion ||
      error == cudaErrorInvalidDeviceFunction) {
    refuse(op, "no kernel for compute capability ", compute_capability(), "; built for " MTP_EXT_CUDA_TARGETS);
  }
  if (error == cudaErrorInvalidConfiguration) refuse(op, "the tensors are too large for one grid");
  refuse(op, cudaGetErrorString(error), " (", cudaGetErrorName(error), ")");
}

}  // namespace mtp_ext

// An op without tensors: it goes to BackendSelect, ahead of the one in Python, which knows no device.
STABLE_TORCH_LIBRARY_IMPL(mtp_ext, BackendSelect, m) { m.impl("take_faults", TORCH_BOX(&mtp_ext::take_faults)); }
