// Job: read every logit of a live branch once more, one exponential each, and write each mixed column. A warp mixes 32
// x 16 bytes of columns. Moves B V (logit bytes) + 4 V, and 16 B bytes of terms a warp, from the nearest cache; does B
// V exponentials and V logarithms. The logits come from the second-level cache where all rows' fit into it (16 branches
// of 128,256 tokens in bfloat16 are 4 MB, an H100 has 50), else from device memory a second time.
//
// The sum over branches is cut by their numbers: slice j takes the groups of eight whose number is j modulo eight, and
// the slices' sums are added in order. With few branches one warp does all slices of its columns; with many the eight
// warps of a block do one slice each of the same columns. Both give the same bits.
#pragma once

#include "exponential.cuh"
#include "mixture.h"
#include "numbers.cuh"
#include "reduce.cuh"

namespace mtp_ext::cuda {

inline constexpr int kMixWarps = 8;              // of a block
inline constexpr int kMixSlices = kMixWarps;     // of a row's branches
inline constexpr int kMixGroup = 8;              // branches
inline constexpr float kSmallestSum = 0x1p-80f;  // below it, terms under float32's 2^-126 may count

template <typename scalar_t>
inline constexpr int kMixColumns = kWarp * kVector<scalar_t>;  // of a warp

// A term's log-weight plus log-probability, without the base. In nats, since a logit as low as float32 goes has no
// octaves.
__device__ inline float nats_of(float logit, const MixtureTerm& term) {
  return (logit - term.log_normalizer) + term.octaves * static_cast<float>(kLn2);
}

// The columns of a lane: `count` of them. `whole`: all lanes of the warp have kVector, on 16 bytes in every branch.
template <typename scalar_t>
struct LaneColumns {
  const scalar_t* logits;  // of the row's first branch
  int64_t branch_stride;   // elements
  int count;
  bool whole;

  __device__ const scalar_t* of(const MixtureTerm& term) const { return logits + term.branch * branch_stride; }
};

template <typename scalar_t>
__device__ inline void add_term(const MixtureTerm& term, const float (&x)[kVector<scalar_t>],
                                float (&sums)[kVector<scalar_t>]) {
#pragma unroll
  for (int i = 0; i < kVector<scalar_t>; ++i) {
    sums[i] += exp2_approx(fmaf(x[i] - term.log_normalizer, kLog2E, term.octaves));
  }
}

// Eight terms; the loads come first, so that as many are on their way as registers allow.
template <typename scalar_t>
__device__ inline void add_whole_group(const LaneColumns<scalar_t>& columns, const MixtureTerm* terms,
                                       float (&sums)[kVector<scalar_t>]) {
  MixtureTerm term[kMixGroup];
  uint4 packed[kMixGroup];
#pragma unroll
  for (int b = 0; b < kMixGroup; ++b) {
    term[b] = terms[b];
    packed[b] = load_packed(columns.of(term[b]));
  }
#pragma unroll
  for (int b = 0; b < kMixGroup; ++b) {
    float x[kVector<scalar_t>];
    unpack<scalar_t>(packed[b], x);
    add_term<scalar_t>(term[b], x, sums);
  }
}

// sums += the terms of one slice.
template <typename scalar_t>
__device__ inline void add_slice(const LaneColumns<scalar_t>& columns, const MixtureTerm* terms, int64_t count,
                                 int slice, float (&sums)[kVector<scalar_t>]) {
  for (int64_t first = slice * kMixGroup; first < count; first += kMixGroup * kMixSlices) {
    float group[kVector<scalar_t>] = {};
    if (columns.whole && count - first >= kMixGroup) {
      add_whole_group(columns, terms + first, group);
    } else {
      for (int64_t b = first; b < min(first + kMixGroup, count); ++b) {
        float x[kVector<scalar_t>];
        if (columns.whole) {
          load_vector(columns.of(terms[b]), x);
        } else {
          load_scalars(columns.of(terms[b]), columns.count, -kInfinity, x);
        }
        add_term<scalar_t>(terms[b], x, group);
      }
    }
#pragma unroll
    for (int i = 0; i < kVector<scalar_t>; ++i) sums[i] += group[i];
  }
}

// One column in log space, by one thread: two passes over the branches, no underflow. Rare, so its loops stay rolled
// and the registers are left to the common path.
template <typename scalar_t>
__device__ inline float mix_in_log_space(const LaneColumns<scalar_t>& columns, const MixtureTerm* terms,
                                         const MixtureRow& row, int column) {
  const auto nats = [&](int64_t b) { return nats_of(to_float(columns.of(terms[b])[column]), terms[b]); };
  float largest = -kInfinity;
#pragma unroll 1
  for (int64_t b = 0; b < row.count; ++b) largest = fmaxf(largest, nats(b));
  if (largest == -kInfinity) return -kInfinity;
  float total = 0;
  for (int64_t first = 0; first < row.count; first += kMixGroup * kMixSlices) {
    const int64_t last = min(first + kMixGroup * kMixSlices, row.count);
    float level = 0;
#pragma unroll 1
    for (int64_t b = first; b < last; ++b) level += expf(nats(b) - largest);
    total += level;
  }
  return (row.base + largest) + logf(total);
}

// The sums of a lane's columns over all branches; of a block that shares its columns (kSliced) only the first warp gets
// them.
template <typename scalar_t, bool kSliced>
__device__ inline void sum_terms(const LaneColumns<scalar_t>& columns, const MixtureTerm* terms, int64_t count,
                                 float (&total)[kVector<scalar_t>]) {
  constexpr int kColumns = kVector<scalar_t>;
  if constexpr (kSliced) {
    __shared__ float exchange[kMixSlices][kColumns][kWarp];
    const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
    float sums[kColumns] = {};
    add_slice(columns, terms, count, warp, sums);
#pragma unroll
    for (int i = 0; i < kColumns; ++i) exchange[warp][i][lane] = sums[i];
    __syncthreads();
    if (warp > 0) return;
    for (int slice = 0; slice < kMixSlices; ++slice) {
#pragma unroll
      for (int i = 0; i < kColumns; ++i) total[i] += exchange[slice][i][lane];
    }
  } else {
    for (int slice = 0; slice < kMixSlices; ++slice) {
      float sums[kColumns] = {};
      add_slice(columns, terms, count, slice, sums);
#pragma unroll
      for (int i = 0; i < kColumns; ++i) total[i] += sums[i];
    }
  }
}

template <int kCount>
__device__ inline void store_floats(float* data, int count, const float (&in)[kCount]) {
  if (count == kCount && is_aligned(data)) {
#pragma unroll
    for (int i = 0; i < kCount; i += 4) {
      // __stcg: nvcc takes an ordinary store apart, since the other branch stores the same floats one by one.
      __stcg(reinterpret_cast<float4*>(data + i), make_float4(in[i], in[i + 1], in[i + 2], in[i + 3]));
    }
  } else {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      if (i < count) data[i] = in[i];
    }
  }
}

template <typename scalar_t, bool kSliced>
__global__ void __launch_bounds__(kMixWarps* kWarp) mix_kernel(const MixParams<scalar_t> params) {
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const auto tiles = static_cast<unsigned>(ceil_div(params.vocab, kMixColumns<scalar_t>));
  const unsigned tile = kSliced ? blockIdx.x : blockIdx.x * kMixWarps + warp;
  const int64_t row_number = tile / tiles;
  if (row_number >= params.row_count) return;
  const int64_t first = int64_t{tile % tiles} * kMixColumns<scalar_t>, column = first + lane * kVector<scalar_t>;
  static_assert(kSumBlock % kMixColumns<scalar_t> == 0, "a tile must lie in one block");
  if (params.bounds &&
      params.bounds[row_number * sum_blocks(params.vocab) + first / kSumBlock] < params.thresholds[row_number]) {
    return;
  }
  const MixtureRow row = params.rows[row_number];
  const MixtureTerm* terms = params.terms + row.first;
  const scalar_t* logits = params.logits + row.offset + column;
  const bool whole = is_aligned(logits) && params.branch_stride % kVector<scalar_t> == 0 &&
                     first + kMixColumns<scalar_t> <= params.vocab;
  const int64_t left = max(int64_t{0}, min(params.vocab - column, int64_t{kVector<scalar_t>}));
  const LaneColumns<scalar_t> columns{logits, params.branch_stride, static_cast<int>(left), whole};
  float total[kVector<scalar_t>] = {};
  if (row.state == RowState::kOrdinary) sum_terms<scalar_t, kSliced>(columns, terms, row.count, total);
  if (kSliced && warp > 0) return;
  float* out = params.out + row_number * params.vocab + column;
  unsigned small = 0;  // columns, as bits
#pragma unroll
  for (int i = 0; i < kVector<scalar_t>; ++i) {
    if (row.state == RowState::kOrdinary) {
      if (total[i] < kSmallestSum && i < columns.count) small |= 1u << i;
      total[i] = row.base + logf(total[i]);
    } else {
      total[i] = row.state == RowState::kEmpty ? -kInfinity : kNaN;
    }
  }
  store_floats<kVector<scalar_t>>(out, columns.count, total);
  for (; small; small &= small - 1) {
    const int i = __ffs(small) - 1;
    out[i] = mix_in_log_space(columns, terms, row, i);
  }
}

}  // namespace mtp_ext::cuda
