// Small kernels, each in two versions: with Bug false it is correct, with Bug true it has the bug that is planted in
// it. At the end of the file each gets two names that tests can launch: name and name_bug.

constexpr unsigned kFullWarp = 0xffffffffu;

// One element too many is read.
template <bool Bug>
__device__ void global_read(const float* in, float* out, int count) {
  const int i = threadIdx.x;
  if (i < count) out[i] = in[i + (Bug && i == count - 1)];
}

// One element too many is written.
template <bool Bug>
__device__ void global_write(const float* in, float* out, int count) {
  const int i = threadIdx.x;
  if (i < count + Bug) out[i] = i;
}

// 16 bytes are read from an address that is a multiple of 4 only.
template <bool Bug>
__device__ void global_alignment(const float* in, float* out, int count) {
  if (threadIdx.x == 0) *reinterpret_cast<float4*>(out) = *reinterpret_cast<const float4*>(in + Bug);
}

// An index of shared memory runs over its end.
template <bool Bug>
__device__ void shared_bounds(const float* in, float* out, int count) {
  __shared__ float tile[32], other[32];
  const int i = threadIdx.x;
  other[i] = 0;
  tile[i + (Bug ? count : 0)] = in[i];
  __syncthreads();
  out[i] = tile[31 - i] + other[i];
}

// 8 bytes are read from an odd word of shared memory.
template <bool Bug>
__device__ void shared_alignment(const float* in, float* out, int count) {
  __shared__ __align__(16) float tile[64];
  const int i = threadIdx.x;
  tile[i] = tile[i + 32] = in[i];
  __syncthreads();
  const float2 pair = *reinterpret_cast<const float2*>(tile + 2 * (i % 16) + (Bug ? count % 2 + 1 : 0));
  out[i] = pair.x + pair.y;
}

// Shared memory is read that only half of the threads wrote.
template <bool Bug>
__device__ void unwritten(const float* in, float* out, int count) {
  __shared__ float tile[32];
  const int i = threadIdx.x;
  if (i < (Bug ? 16 : 32)) tile[i] = in[i];
  __syncthreads();
  out[i] = tile[31 - i];
}

// A barrier is missing between the writes and the reads of other warps.
template <bool Bug>
__device__ void read_after_write(const float* in, float* out, int count) {
  __shared__ float tile[64];
  const int i = threadIdx.x;
  tile[i] = 0;
  __syncthreads();
  tile[i] = in[i];
  if (!Bug) __syncthreads();
  out[i] = tile[63 - i];
}

// A barrier is missing between the reads of one round and the writes of the next.
template <bool Bug>
__device__ void write_after_read(const float* in, float* out, int count) {
  __shared__ float tile[64];
  const int i = threadIdx.x;
  float sum = 0;
  for (int round = 0; round < 3; ++round) {
    tile[i] = in[i] + round;
    __syncthreads();
    sum += tile[63 - i];
    if (!Bug) __syncthreads();
  }
  out[i] = sum;
}

// Two warps write the same place.
template <bool Bug>
__device__ void write_after_write(const float* in, float* out, int count) {
  __shared__ float last;
  const int i = threadIdx.x;
  if (Bug ? i % 32 == 0 : i == 0) last = in[i];
  __syncthreads();
  out[i] = last;
}

// Lanes of one warp exchange through shared memory without __syncwarp.
template <bool Bug>
__device__ void warp_exchange(const float* in, float* out, int count) {
  __shared__ float tile[32];
  const int i = threadIdx.x;
  tile[i] = 0;
  __syncwarp();
  tile[i] = in[i];
  if (!Bug) __syncwarp();
  out[i] = tile[i ^ 1];
}

// Threads of one block exchange through global memory without a barrier.
template <bool Bug>
__device__ void global_exchange(const float* in, float* out, int count) {
  const int i = threadIdx.x;
  out[i] = in[i];
  if (!Bug) __syncthreads();
  const float other = out[63 - i];
  __syncthreads();
  out[i] = other;
}

// Blocks write the same element.
template <bool Bug>
__device__ void blocks_write(const float* in, float* out, int count) {
  if (threadIdx.x == 0) out[Bug ? 0 : blockIdx.x] = in[blockIdx.x];
}

// A block reads what another one writes.
template <bool Bug>
__device__ void blocks_read(const float* in, float* out, int count) {
  if (threadIdx.x == 0) out[blockIdx.x] = Bug && blockIdx.x > 0 ? out[blockIdx.x - 1] : in[0];
}

// The last block to arrive adds up what the others wrote: right only with a fence before the atomic.
template <bool Bug>
__device__ void last_block(const float* in, float* out, int count) {
  __shared__ bool last;
  float* partial = out + 1;
  int* arrived = reinterpret_cast<int*>(out + 1 + gridDim.x);
  if (threadIdx.x == 0) {
    partial[blockIdx.x] = in[blockIdx.x];
    if (!Bug) __threadfence();
    last = atomicAdd(arrived, 1) == int(gridDim.x) - 1;
  }
  __syncthreads();
  if (!last || threadIdx.x != 5) return;
  float sum = 0;
  for (int i = 0; i < int(gridDim.x); ++i) sum += partial[i];
  out[0] = sum;
}

// Half of the threads wait at another barrier.
template <bool Bug>
__device__ void divergent_barrier(const float* in, float* out, int count) {
  __shared__ float tile[64];
  const int i = threadIdx.x;
  tile[i] = in[i];
  if (Bug && i < 32) {
    asm volatile("bar.sync 0;" ::: "memory");
    out[i] = tile[63 - i];
  } else {
    asm volatile("bar.sync 0;" ::: "memory");
    out[i] = tile[63 - i] * 1;
  }
}

// A barrier with a count that never comes together.
template <bool Bug>
__device__ void starved_barrier(const float* in, float* out, int count) {
  asm volatile("bar.sync 1, %0;" ::"r"(Bug ? 96 : 64) : "memory");
  out[threadIdx.x] = in[threadIdx.x];
}

// A lane is named that does not come.
template <bool Bug>
__device__ void lane_mask(const float* in, float* out, int count) {
  const int i = threadIdx.x;
  if (i < 16) out[i] = __shfl_xor_sync(Bug ? kFullWarp : 0xffffu, in[i], 1);
}

// A lane calls with a mask that lacks it.
template <bool Bug>
__device__ void lane_mask_without_caller(const float* in, float* out, int count) {
  const unsigned mask = Bug ? 0xfffffffeu : kFullWarp;
  out[threadIdx.x] = __shfl_sync(mask, in[threadIdx.x], 3);
}

// The wait lets the newest group of copies go on.
template <bool Bug>
__device__ void async_wait(const float* in, float* out, int count) {
  __shared__ __align__(16) float tile[2][128];
  const int i = threadIdx.x;
  const auto to = [&](int half) { return unsigned(__cvta_generic_to_shared(&tile[half][4 * i])); };
  for (int half = 0; half < 2; ++half) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to(half)), "l"(in + 128 * half + 4 * i) : "memory");
    asm volatile("cp.async.commit_group;" ::: "memory");
  }
  if (Bug) {
    asm volatile("cp.async.wait_group 1;" ::: "memory");
  } else {
    asm volatile("cp.async.wait_group 0;" ::: "memory");
  }
  __syncthreads();
  out[i] = tile[0][127 - i] + tile[1][127 - i];
}

// The copies are waited for, but not by a barrier: those of other threads may be under way.
template <bool Bug>
__device__ void async_barrier(const float* in, float* out, int count) {
  __shared__ __align__(16) float tile[128];
  const int i = threadIdx.x;
  for (int j = 0; j < 4; ++j) tile[4 * i + j] = 0;
  __syncthreads();
  const auto to = unsigned(__cvta_generic_to_shared(&tile[4 * i]));
  asm volatile("cp.async.ca.shared.global [%0], [%1], 16;" ::"r"(to), "l"(in + 4 * i) : "memory");
  asm volatile("cp.async.wait_all;" ::: "memory");
  if (!Bug) __syncthreads();
  out[i] = tile[127 - 4 * i];
}

// What the launch itself wrote is read through the read-only cache.
template <bool Bug>
__device__ void constant_cache(const float* in, float* out, int count) {
  const int i = threadIdx.x;
  out[i] = in[i];
  __syncthreads();
  const float other = Bug ? __ldg(out + i) : *(volatile float*)(out + i);
  __syncthreads();
  out[i] = other + 1;
}

#define TWO_VERSIONS(name)                                                                              \
  extern "C" __global__ void name##_ok(const float* in, float* out, int n) { name<false>(in, out, n); } \
  extern "C" __global__ void name##_bug(const float* in, float* out, int n) { name<true>(in, out, n); }

TWO_VERSIONS(global_read)
TWO_VERSIONS(global_write)
TWO_VERSIONS(global_alignment)
TWO_VERSIONS(shared_bounds)
TWO_VERSIONS(shared_alignment)
TWO_VERSIONS(unwritten)
TWO_VERSIONS(read_after_write)
TWO_VERSIONS(write_after_read)
TWO_VERSIONS(write_after_write)
TWO_VERSIONS(warp_exchange)
TWO_VERSIONS(global_exchange)
TWO_VERSIONS(blocks_write)
TWO_VERSIONS(blocks_read)
TWO_VERSIONS(last_block)
TWO_VERSIONS(divergent_barrier)
TWO_VERSIONS(starved_barrier)
TWO_VERSIONS(lane_mask)
TWO_VERSIONS(lane_mask_without_caller)
TWO_VERSIONS(async_wait)
TWO_VERSIONS(async_barrier)
TWO_VERSIONS(constant_cache)
