// Instructions at which threads meet, and memory instructions, one kernel each; tests compare with plain Python.
#include <cstdint>

constexpr unsigned kAll = 0xffffffffu;

// out[i]: lane i's view of shuffles by 3 in segments of 8, of all four modes.
extern "C" __global__ void shuffles(const int* in, int* out) {
  const int i = threadIdx.x;
  out[i] = __shfl_sync(kAll, in[i], 3, 8);
  out[32 + i] = __shfl_up_sync(kAll, in[i], 3, 8);
  out[64 + i] = __shfl_down_sync(kAll, in[i], 3, 8);
  out[96 + i] = __shfl_xor_sync(kAll, in[i], 5, 8);
}

extern "C" __global__ void votes(const int* in, int* out) {
  const int i = threadIdx.x;
  const unsigned mask = i < 20 ? 0xfffffu : 0xfff00000u;
  out[i] = int(__ballot_sync(mask, in[i] % 3 == 0));
  out[32 + i] = __any_sync(mask, in[i] == 5);
  out[64 + i] = __all_sync(mask, in[i] >= 20);
  out[96 + i] = int(__match_any_sync(mask, in[i] % 4));
  int equal;
  out[128 + i] = int(__match_all_sync(mask, in[i] / 20, &equal)) + equal;
}

extern "C" __global__ void reductions(const int* in, int* out) {
  const int i = threadIdx.x;
  out[i] = __reduce_add_sync(kAll, in[i]);
  out[32 + i] = __reduce_min_sync(kAll, -in[i]);
  out[64 + i] = int(__reduce_max_sync(kAll, unsigned(in[i])));
  out[96 + i] = int(__reduce_xor_sync(kAll, unsigned(in[i])));
}

// 64 threads: how many, whether all, whether any.
extern "C" __global__ void barriers(const int* in, int* out) {
  const int i = threadIdx.x;
  out[i] = __syncthreads_count(in[i] % 3 == 0);
  out[64 + i] = __syncthreads_and(in[i] >= 0);
  out[128 + i] = __syncthreads_or(in[i] == 63);
}

// Warp 0 produces, warp 1 consumes: named barriers of 64 threads.
extern "C" __global__ void producer(const int* in, int* out) {
  __shared__ int tile[32];
  const int lane = threadIdx.x % 32;
  for (int round = 0; round < 3; ++round) {
    if (threadIdx.x < 32) {
      tile[lane] = in[lane] + round;
      asm volatile("bar.arrive 1, 64;" ::: "memory");
      asm volatile("bar.sync 2, 64;" ::: "memory");
    } else {
      asm volatile("bar.sync 1, 64;" ::: "memory");
      out[32 * round + lane] = tile[31 - lane];
      asm volatile("bar.arrive 2, 64;" ::: "memory");
    }
  }
}

// Every atomic on shared and global memory; all 64 threads take part.
extern "C" __global__ void atomics(const int* in, int* out) {
  __shared__ int sum;
  __shared__ unsigned long long wide;
  const int i = threadIdx.x;
  if (i == 0) sum = 0, wide = 0;
  __syncthreads();
  atomicAdd(&sum, in[i]);
  atomicMax(&wide, (unsigned long long)in[i] << 33);
  atomicAdd(out + 0, in[i]);
  atomicMin(out + 1, -in[i]);
  atomicMax(out + 2, in[i]);
  atomicAnd(out + 3, ~(1 << (i % 8)));
  atomicOr(out + 4, 1 << (i % 8));
  atomicXor(out + 5, in[i]);
  atomicInc(reinterpret_cast<unsigned*>(out + 6), 40);
  if (i == 7) atomicExch(out + 7, 7);
  atomicCAS(out + 8, 0, 8);
  atomicAdd(reinterpret_cast<float*>(out + 9), 0.5f);
  __syncthreads();
  if (i == 0) out[10] = sum, out[11] = int(wide >> 33);
}

// Loads and stores of every width; 32 threads, 16 bytes each.
extern "C" __global__ void widths(const uint8_t* in, uint8_t* out) {
  __shared__ __align__(16) uint8_t tile[512];
  const int i = threadIdx.x;
  *reinterpret_cast<uint4*>(tile + 16 * i) = *reinterpret_cast<const uint4*>(in + 16 * i);
  __syncthreads();
  const int from = 16 * (31 - i);
  *reinterpret_cast<uint2*>(out + 16 * i) = *reinterpret_cast<const uint2*>(tile + from);
  *reinterpret_cast<uint32_t*>(out + 16 * i + 8) = *reinterpret_cast<const uint32_t*>(tile + from + 8);
  *reinterpret_cast<uint16_t*>(out + 16 * i + 12) = *reinterpret_cast<const uint16_t*>(tile + from + 12);
  out[16 * i + 14] = tile[from + 14];
  out[16 * i + 15] = uint8_t(*reinterpret_cast<const int8_t*>(tile + from + 15) >> 1);
}

// Arrays with an index that is not a constant lie in local memory, tables in constant or global memory.
__constant__ int kSquares[8] = {0, 1, 4, 9, 16, 25, 36, 49};
extern "C" __global__ void tables(const int* in, int* out) {
  const int i = threadIdx.x;
  int local[8];
  for (int j = 0; j < 8; ++j) local[j] = in[j] * 2;
  local[in[i] % 8] += i;
  out[i] = local[(in[i] + 1) % 8] + local[in[i] % 8] + kSquares[in[i] % 8];
}

// cp.async: whole, the first bytes only, and none; 32 threads of 16 bytes.
extern "C" __global__ void copies(const uint8_t* in, uint8_t* out) {
  __shared__ __align__(16) uint8_t tile[512];
  const int i = threadIdx.x;
  const unsigned to = unsigned(__cvta_generic_to_shared(tile + 16 * i));
  const int bytes = i % 3 == 0 ? 16 : i % 3 == 1 ? 4 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(in + 16 * i), "r"(bytes) : "memory");
  asm volatile("cp.async.wait_all;" ::: "memory");
  __syncwarp();
  *reinterpret_cast<uint4*>(out + 16 * i) = *reinterpret_cast<const uint4*>(tile + 16 * i);
}

// A parameter that is read at an index that only the thread knows.
struct Table {
  int values[8];
};
extern "C" __global__ void parameters(const int* in, int* out, const __grid_constant__ Table table) {
  out[threadIdx.x] = table.values[in[threadIdx.x] % 8] + table.values[7];
}

// A variable of the module that kernels change, which the runner cannot do.
__device__ int launches;
extern "C" __global__ void count_launches(const int* in, int* out) {
  if (threadIdx.x == 0) out[0] = launches++;
}
