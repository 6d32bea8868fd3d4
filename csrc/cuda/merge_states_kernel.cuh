// The CUDA kernel of csrc/merge_states.h.
//
// The job: read two rows of value_dim numbers and two LSEs, write one of each. The kernel moves just these bytes, 16 at
// a time where rows start on 16 bytes. A thread merges 16 bytes of a row; its shares of the two parts cost three
// exponentials, which all threads of a row compute alike rather than wait for each other.
#pragma once

#include "../merge_states.h"
#include "numbers.cuh"

namespace mtp_ext::cuda {

inline constexpr int kMergeThreads = 128;

__device__ inline int64_t state_offset(const MergeStates& m, const StateStride& stride, int64_t row) {
  const int64_t node = row / m.heads;
  return node / m.nodes * stride.batch + node % m.nodes * stride.node + row % m.heads * stride.head;
}

template <typename scalar_t>
__device__ void load_piece(const scalar_t* data, int count, float (&out)[kVector<scalar_t>]) {
  if (count == kVector<scalar_t> && is_aligned(data)) {
    load_vector(data, out);
  } else {
    load_scalars(data, count, 0.0f, out);
  }
}

template <typename scalar_t>
__global__ void __launch_bounds__(kMergeThreads)
    merge_states_kernel(MergeStates m, const scalar_t* out_a, const float* lse_a, const scalar_t* out_b,
                        const float* lse_b, scalar_t* out, float* lse) {
  constexpr int kWidth = kVector<scalar_t>;
  const int64_t pieces = (m.value_dim + kWidth - 1) / kWidth;
  const int64_t i = int64_t{blockIdx.x} * kMergeThreads + threadIdx.x;
  const int64_t row = i / pieces;
  if (row >= m.rows) return;
  const int first = static_cast<int>(i % pieces) * kWidth;
  const int count = min(kWidth, static_cast<int>(m.value_dim) - first);

  const float one = lse_a[state_offset(m, m.lse_a, row)];
  const float other = lse_b[state_offset(m, m.lse_b, row)];
  const float largest = fmaxf(one, other);
  const float finite = largest == -kInfinity ? 0.0f : largest;
  const float weight_a = expf(one - finite), weight_b = expf(other - finite);
  const float total = weight_a + weight_b;
  const float scale = total > 0 ? 1 / total : 0.0f;  // NaN stays NaN in its weight

  float a[kWidth], b[kWidth];
  load_piece(out_a + state_offset(m, m.out_a, row) + first, count, a);
  load_piece(out_b + state_offset(m, m.out_b, row) + first, count, b);
#pragma unroll
  for (int d = 0; d < kWidth; ++d) a[d] = weight_a * scale * a[d] + weight_b * scale * b[d];
  scalar_t* target = out + row * m.value_dim + first;
  if (count == kWidth && is_aligned(target)) {
    store_vector(target, a);
  } else {
    store_scalars(target, count, a);
  }
  if (first == 0) {
    const float apart = one == other ? 0.0f : fabsf(one - other);  // equal infinities are not apart
    lse[row] = largest + log1pf(expf(-apart));
  }
}

}  // namespace mtp_ext::cuda
