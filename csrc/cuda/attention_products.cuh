// The two products of attention for a warp's 16 rows: scores = Q K^T, and out += P V.
//
// Scores and out lie in registers as mma.m16n8k16 leaves its result: of each 8 columns, lane 4 g + t holds columns 2 t
// and 2 t + 1 of rows g (elements 0, 1) and g + 8 (elements 2, 3). 16-bit types multiply on tensor cores and add in
// float32; float32 multiplies and adds as such (no TF32), in the same layout.
#pragma once

#include "numbers.cuh"
#include "reduce.cuh"
#include "shared_tile.cuh"

namespace mtp_ext::cuda {

inline constexpr int kWarpRows = 16;

// Four 8x8 matrices of 16-bit numbers; lane 8 i + j gives the address of row j of matrix i.
__device__ inline void load_matrices(uint32_t (&out)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(shared_address(row)));
}

__device__ inline void load_matrices_transposed(uint32_t (&out)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(shared_address(row)));
}

// sum[16, 8] += a[16, 16] b[16, 8]
template <typename scalar_t>
__device__ void multiply_add(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  if constexpr (std::is_same_v<scalar_t, bfloat16>) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  } else {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
}

// Two numbers rounded to the operands' type, the first in the lower half.
template <typename scalar_t>
__device__ uint32_t pack(float low, float high) {
  uint32_t pair;
  if constexpr (std::is_same_v<scalar_t, bfloat16>) {
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  } else {
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  }
  return pair;
}

// By tensor cores. Per 16 keys and 16 dims: one ldmatrix and two mma, of 2 KiB products each.
template <typename scalar_t, int kDim, int kKeys>
struct Products {
  using Tile = SharedTile<scalar_t, kDim>;

  static __device__ void scores(const Tile& queries, int first_row, const Tile& keys, int head_dim,
                                float (&scores)[kKeys / 8][4]) {
    const int lane = threadIdx.x % kWarp;
#pragma unroll
    for (int n = 0; n < kKeys / 8; ++n) {
      scores[n][0] = scores[n][1] = scores[n][2] = scores[n][3] = 0;
    }
#pragma unroll 2
    for (int d = 0; d < head_dim; d += 16) {
      uint32_t query[4];
      load_matrices(query, queries.chunk(first_row + lane % 16, d / 8 + lane / 16));
#pragma unroll
      for (int n = 0; n < kKeys / 8; n += 2) {
        uint32_t key[4];
        load_matrices(key, keys.chunk(8 * n + lane / 16 * 8 + lane % 8, d / 8 + lane / 8 % 2));
        multiply_add<scalar_t>(scores[n], query, key[0], key[1]);
        multiply_add<scalar_t>(scores[n + 1], query, key[2], key[3]);
      }
    }
  }

  static __device__ void add_values(const float (&weights)[kKeys / 8][4], const Tile& values, int,
                                    float (&out)[kDim / 8][4]) {
    const int lane = threadIdx.x % kWarp;
#pragma unroll
    for (int n = 0; n < kKeys / 8; n += 2) {
      const uint32_t weight[4] = {
          pack<scalar_t>(weights[n][0], weights[n][1]), pack<scalar_t>(weights[n][2], weights[n][3]),
          pack<scalar_t>(weights[n + 1][0], weights[n + 1][1]), pack<scalar_t>(weights[n + 1][2], weights[n + 1][3])};
#pragma unroll
      for (int d = 0; d < kDim / 8; d += 2) {
        uint32_t value[4];
        load_matrices_transposed(value, values.chunk(8 * n + lane % 16, d + lane / 16));
        multiply_add<scalar_t>(out[d], weight, value[0], value[1]);
        multiply_add<scalar_t>(out[d + 1], weight, value[2], value[3]);
      }
    }
  }
};

// float32, by the ordinary units.
template <int kDim, int kKeys>
struct Products<float, kDim, kKeys> {
  using Tile = SharedTile<float, kDim>;

  static __device__ float dot(float4 a, float4 b, float sum) {
    return fmaf(a.w, b.w, fmaf(a.z, b.z, fmaf(a.y, b.y, fmaf(a.x, b.x, sum))));
  }

  static __device__ float4 numbers(const Tile& tile, int row, int chunk) {
    return *reinterpret_cast<const float4*>(tile.chunk(row, chunk));
  }

  static __device__ void scores(const Tile& queries, int first_row, const Tile& keys, int head_dim,
                                float (&scores)[kKeys / 8][4]) {
    const int g = threadIdx.x % kWarp / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int n = 0; n < kKeys / 8; ++n) {
      scores[n][0] = scores[n][1] = scores[n][2] = scores[n][3] = 0;
    }
#pragma unroll 1
    for (int chunk = 0; 4 * chunk < head_dim; ++chunk) {
      const float4 upper = numbers(queries, first_row + g, chunk), lower = numbers(queries, first_row + g + 8, chunk);
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) {
        const float4 even = numbers(keys, 8 * n + 2 * t, chunk), odd = numbers(keys, 8 * n + 2 * t + 1, chunk);
        scores[n][0] = dot(upper, even, scores[n][0]);
        scores[n][1] = dot(upper, odd, scores[n][1]);
        scores[n][2] = dot(lower, even, scores[n][2]);
        scores[n][3] = dot(lower, odd, scores[n][3]);
      }
    }
  }

  // Eight keys are summed apart before they are added: a thousand keys added one by one would cost ten roundings.
  static __device__ void add_values(const float (&weights)[kKeys / 8][4], const Tile& values, int value_dim,
                                    float (&out)[kDim / 8][4]) {
    constexpr int kColumns = 4;  // of 8 dims each, summed at a time
    const int lane = threadIdx.x % kWarp, t = lane % 4;
#pragma unroll
    for (int d = 0; d < kDim / 8; d += kColumns) {
      if (8 * d >= value_dim) break;
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) {
        float sums[kColumns][4] = {};
#pragma unroll 1
        for (int pair = 0; pair < 4; ++pair) {
          float weight[4];  // of keys 8 n + 2 pair and the next one
#pragma unroll
          for (int i = 0; i < 4; ++i) weight[i] = __shfl_sync(kAllOfWarp, weights[n][i], lane - t + pair);
#pragma unroll
          for (int column = 0; column < kColumns; ++column) {
            const int chunk = 2 * (d + column) + t / 2, place = t % 2 * 8;
            const auto even = *reinterpret_cast<const float2*>(values.chunk(8 * n + 2 * pair, chunk) + place);
            const auto odd = *reinterpret_cast<const float2*>(values.chunk(8 * n + 2 * pair + 1, chunk) + place);
            float (&sum)[4] = sums[column];
            sum[0] = fmaf(weight[1], odd.x, fmaf(weight[0], even.x, sum[0]));
            sum[1] = fmaf(weight[1], odd.y, fmaf(weight[0], even.y, sum[1]));
            sum[2] = fmaf(weight[3], odd.x, fmaf(weight[2], even.x, sum[2]));
            sum[3] = fmaf(weight[3], odd.y, fmaf(weight[2], even.y, sum[3]));
          }
        }
#pragma unroll
        for (int column = 0; column < kColumns; ++column) {
#pragma unroll
          for (int i = 0; i < 4; ++i) out[d + column][i] += sums[column][i];
        }
      }
    }
  }
};

}  // namespace mtp_ext::cuda
