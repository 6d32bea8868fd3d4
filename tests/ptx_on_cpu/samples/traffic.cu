// Accesses whose cost is known. 32 threads; `in` and `out` have 4096 elements.
extern "C" __global__ void coalesced(const float* in, float* out) { out[threadIdx.x] = in[threadIdx.x]; }
extern "C" __global__ void strided(const float* in, float* out) { out[threadIdx.x] = in[8 * threadIdx.x]; }
extern "C" __global__ void vectors(const float4* in, float4* out) { out[threadIdx.x] = in[threadIdx.x]; }

template <int kStride>
__device__ void transpose(const float* in, float* out) {
  __shared__ float tile[32 * 33];
  tile[threadIdx.x * kStride] = in[threadIdx.x];
  __syncwarp();
  out[threadIdx.x] = tile[threadIdx.x * kStride];
}
extern "C" __global__ void no_conflict(const float* in, float* out) { transpose<33>(in, out); }
extern "C" __global__ void two_ways(const float* in, float* out) { transpose<2>(in, out); }
extern "C" __global__ void all_ways(const float* in, float* out) { transpose<32>(in, out); }

// Sixteen-byte rows of a tile, one a lane: 128 bytes apart they meet in four banks, 144 bytes apart they do not.
template <int kRow>
__device__ void rows(const float4* in, float* out) {
  __shared__ __align__(16) float tile[32 * 36];
  *reinterpret_cast<float4*>(tile + threadIdx.x * kRow) = in[threadIdx.x];
  __syncwarp();
  out[threadIdx.x] = tile[threadIdx.x * kRow];
}
extern "C" __global__ void rows_of_128_bytes(const float4* in, float* out) { rows<32>(in, out); }
extern "C" __global__ void rows_of_144_bytes(const float4* in, float* out) { rows<36>(in, out); }

// Eight bytes a lane, the same ones for all.
extern "C" __global__ void broadcast(const float* in, float2* out) {
  __shared__ __align__(8) float pair[2];
  if (threadIdx.x < 2) pair[threadIdx.x] = in[threadIdx.x];
  __syncwarp();
  out[threadIdx.x] = *reinterpret_cast<float2*>(pair);
}
