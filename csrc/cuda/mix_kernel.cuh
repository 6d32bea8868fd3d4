// Job: read every logit of a live branch once more, one exponential each, and write each mixed column. A warp mixes 32
// x 16 bytes of columns, eight branches of loads in flight. Moves B V (logit bytes) + 4 V, and 16 B bytes of terms a
// warp, from the nearest cache; does B V exponentials and V logarithms.
//
// The sum over branches is cut by their numbers: slice j takes groups of eight whose number is j modulo eight, and the
// slices' sums are added in order. With few branches one warp does all slices of its columns; with many the eight warps
// of a block do one slice each of the same columns. Both give the same bits.
#pragma once

#include "exponential.cuh"
#include "mixture.h"
#include "numbers.cuh"
#include "reduce.cuh"

namespace mtp_ext::cuda {

inline constexpr int kMixWarps = 8;              // of a block
inline constexpr int kMixSlices = 8;             // of a row's branches
inline constexpr int kMixGroup = 8;              // branches
inline constexpr float kSmallestSum = 0x1p-80f;  // below it, terms under float32's 2^-126 may count

template <typename scalar_t>
inline constexpr int kMixColumns = kWarp * kVector<scalar_t>;  // of a warp

// Some columns of a branch, those of one lane.
template <typename scalar_t>
__device__ inline void load_columns(const scalar_t* logits, int64_t column, int count, float (&x)[kVector<scalar_t>]) {
  if (count == kVector<scalar_t> && is_aligned(logits + column)) {
    load_vector(logits + column, x);
  } else {
    load_scalars(logits + column, count, -kInfinity, x);
  }
}

// sums += the terms of one slice.
template <typename scalar_t>
__device__ inline void add_slice(const scalar_t* logits, const MixtureTerm* terms, int64_t count, int slice,
                                 int64_t column, int columns, float (&sums)[kVector<scalar_t>]) {
  for (int64_t first = slice * kMixGroup; first < count; first += kMixGroup * kMixSlices) {
    float group[kVector<scalar_t>] = {};
#pragma unroll
    for (int b = 0; b < kMixGroup; ++b) {
      if (first + b >= count) break;
      const MixtureTerm term = terms[first + b];
      float x[kVector<scalar_t>];
      load_columns(logits + term.offset, column, columns, x);
#pragma unroll
      for (int i = 0; i < kVector<scalar_t>; ++i) {
        group[i] += exp2_approx(fmaf(x[i] - term.log_normalizer, kLog2E, term.octaves));
      }
    }
#pragma unroll
    for (int i = 0; i < kVector<scalar_t>; ++i) sums[i] += group[i];
  }
}

// One column in log space: two passes over the branches, no underflow. In nats, since a logit as low as float32 goes
// has no octaves.
template <typename scalar_t>
__device__ inline float mix_in_log_space(const scalar_t* logits, const MixtureTerm* terms, const MixtureRow& row,
                                         int64_t column) {
  const auto nats_of = [&](const MixtureTerm& term) {
    return (to_float(logits[term.offset + column]) - term.log_normalizer) + term.octaves * static_cast<float>(kLn2);
  };
  float largest = -kInfinity;
  for (int64_t b = 0; b < row.count; ++b) largest = fmaxf(largest, nats_of(terms[b]));
  if (largest == -kInfinity) return -kInfinity;
  float total = 0;
  for (int64_t first = 0; first < row.count; first += kMixGroup * kMixSlices) {
    const int64_t last = min(first + kMixGroup * kMixSlices, row.count);
    float level = 0;
    for (int64_t b = first; b < last; ++b) level += expf(nats_of(terms[b]) - largest);
    total += level;
  }
  return (row.base + largest) + logf(total);
}

// kSliced: the warps of a block share their columns.
template <typename scalar_t, bool kSliced>
__global__ void __launch_bounds__(kMixWarps* kWarp) mix_kernel(const MixParams<scalar_t> params) {
  constexpr int kColumns = kMixColumns<scalar_t>;
  __shared__ float exchange[kSliced ? kMixSlices : 1][kSliced ? kColumns : 1];
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const int64_t tiles = ceil_div(params.vocab, kColumns);
  const int64_t tile = kSliced ? blockIdx.x : int64_t{blockIdx.x} * kMixWarps + warp;
  const int64_t row_number = tile / tiles;
  if (row_number >= params.row_count) return;
  const MixtureRow row = params.rows[row_number];
  const MixtureTerm* terms = params.terms + row.first;
  const int64_t column = tile % tiles * kColumns + lane * kVector<scalar_t>;
  const int columns = static_cast<int>(max(int64_t{0}, min(params.vocab - column, int64_t{kVector<scalar_t>})));
  float total[kVector<scalar_t>] = {};
  if (row.state == RowState::kOrdinary) {
    if constexpr (kSliced) {
      float sums[kVector<scalar_t>] = {};
      add_slice(params.logits, terms, row.count, warp, column, columns, sums);
#pragma unroll
      for (int i = 0; i < kVector<scalar_t>; ++i) exchange[warp][i * kWarp + lane] = sums[i];
      __syncthreads();
      if (warp > 0) return;
      for (int slice = 0; slice < kMixSlices; ++slice) {
#pragma unroll
        for (int i = 0; i < kVector<scalar_t>; ++i) total[i] += exchange[slice][i * kWarp + lane];
      }
    } else {
      for (int slice = 0; slice < kMixSlices; ++slice) {
        float sums[kVector<scalar_t>] = {};
        add_slice(params.logits, terms, row.count, slice, column, columns, sums);
#pragma unroll
        for (int i = 0; i < kVector<scalar_t>; ++i) total[i] += sums[i];
      }
    }
  }
  if (kSliced && warp > 0) return;
#pragma unroll
  for (int i = 0; i < kVector<scalar_t>; ++i) {
    if (i >= columns) break;
    float result = row.state == RowState::kEmpty ? -kInfinity : kNaN;
    if (row.state == RowState::kOrdinary) {
      result =
          total[i] < kSmallestSum ? mix_in_log_space(params.logits, terms, row, column + i) : row.base + logf(total[i]);
    }
    params.out[row_number * params.vocab + column + i] = result;
  }
}

}  // namespace mtp_ext::cuda
