// Joins the parts of each row in their order:
//   out = sum_i 2^(maximum_i - maximum) out_i / sum_i 2^(maximum_i - maximum) sum_i
// The job: read parts * (state_width + 2) floats a row, write value_dim numbers and the LSE. The kernel moves just
// these, the floats 16 bytes at a time; a thread has 16 bytes of a row of the result. Requests of one part are done
// already.
#pragma once

#include "numbers.cuh"
#include "online_softmax.cuh"
#include "tree_mask.cuh"

namespace mtp_ext::cuda {

inline constexpr int kMergeThreads = 128;

template <typename scalar_t>
__global__ void __launch_bounds__(kMergeThreads) tree_attention_merge(const __grid_constant__ TreeAttentionParams p) {
  constexpr int kWidth = kVector<scalar_t>;
  const TreeAttention& a = p.attention;
  const int pieces = static_cast<int>(ceil_div(a.value_dim, kWidth));
  const int64_t i = int64_t{blockIdx.x} * kMergeThreads + threadIdx.x;
  const int64_t local = i / pieces / p.state_rows;  // item
  if (local >= p.items) return;
  const int first = static_cast<int>(i % pieces) * kWidth;
  const int state_row = static_cast<int>(i / pieces % p.state_rows);
  const int64_t head_item = (p.first_item + local) / p.tiles;
  const int64_t b = head_item / a.kv_heads;
  const int group = static_cast<int>(a.heads / a.kv_heads);
  const int64_t row = (p.first_item + local) % p.tiles * kTileRows + state_row;
  if (row >= a.nodes * group) return;
  const int parts = part_count(TreeMask(p, b).prefix(), p.most_parts);
  if (parts == 1) return;

  const int64_t states = local * p.parts * p.state_rows + state_row;  // the row's first; a part further on the next
  float maximum = -kInfinity, sum = 0;
  for (int part = 0; part < parts; ++part) maximum = fmaxf(maximum, p.state_maximum[states + part * p.state_rows]);
  float merged[kWidth] = {};
  for (int part = 0; part < parts; ++part) {
    const int64_t state = states + part * p.state_rows;
    if (p.state_sum[state] == 0) continue;  // saw nothing
    const float part_maximum = p.state_maximum[state];
    const float share = part_maximum == maximum ? 1.0f : exp2_approx(part_maximum - maximum);
    sum += share * p.state_sum[state];
#pragma unroll
    for (int d = 0; d < kWidth; d += 4) {
      const float4 out = *reinterpret_cast<const float4*>(p.state_out + state * p.state_width + first + d);
      merged[d] = fmaf(share, out.x, merged[d]);
      merged[d + 1] = fmaf(share, out.y, merged[d + 1]);
      merged[d + 2] = fmaf(share, out.z, merged[d + 2]);
      merged[d + 3] = fmaf(share, out.w, merged[d + 3]);
    }
  }
  const int64_t head = head_item % a.kv_heads * group + row % group;
  const int64_t target = (b * a.nodes + row / group) * a.heads + head;
  const Normalizer normalizer = normalize(maximum, sum, a.sinks ? a.sinks[head] : -kInfinity);
  if (first == 0) p.lse[target] = normalizer.lse;
#pragma unroll
  for (int d = 0; d < kWidth; ++d) merged[d] *= normalizer.scale;
  auto* out = static_cast<scalar_t*>(p.out) + target * a.value_dim + first;
  const int count = static_cast<int>(min(int64_t{kWidth}, a.value_dim - first));
  if (count == kWidth && is_aligned(out)) {
    store_vector(out, merged);
  } else {
    store_scalars(out, count, merged);
  }
}

}  // namespace mtp_ext::cuda
