// Host code as a project writes it: launchers that return what CUDA says. Most of these are wrong, and refused.
#include <cuda_runtime.h>

__global__ void __launch_bounds__(128) fill(float* out, float value, short offset, double scale) {
  out[blockIdx.x * blockDim.x + threadIdx.x] = value + float(offset * scale);
}
__global__ void use_shared(float* out) {
  extern __shared__ float dynamic[];
  __shared__ float fixed[256];
  dynamic[threadIdx.x] = 1, fixed[threadIdx.x] = 2;
  __syncthreads();
  out[threadIdx.x] = dynamic[threadIdx.x] + fixed[threadIdx.x];
}
// clang-format off
extern "C" {
int launch_fill(float* out, int blocks, int threads) {
  fill<<<blocks, threads>>>(out, 1.0f, -2, 0.25);
  return cudaGetLastError();
}
int launch_on_stream(float* out, void* stream) {
  fill<<<1, 32, 0, static_cast<cudaStream_t>(stream)>>>(out, 1.0f, 0, 0);
  return cudaGetLastError();
}
// Never asks what became of the launch.
int launch_carelessly(float* out, int blocks) {
  fill<<<blocks, 32>>>(out, 1.0f, 0, 0);
  return 0;
}
int launch_shared(float* out, int bytes, int raise) {
  if (raise) {
    const cudaError_t error = cudaFuncSetAttribute(use_shared, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    if (error != cudaSuccess) return cudaGetLastError();
  }
  use_shared<<<1, 32, bytes>>>(out);
  return cudaGetLastError();
}
int occupancy(int threads, int bytes) {
  int blocks = -1;
  cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, use_shared, threads, bytes);
  return blocks;
}
int compute_capability() {
  int major = 0, minor = 0;
  cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0);
  cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, 0);
  return 10 * major + minor;
}
}
