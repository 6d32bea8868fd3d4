// How a block walks the columns of a row, such as the logits of a vocabulary: each warp has a share of its own, and
// each lane eight columns at a time. Which thread sees which column, and in which order, follows from the number of
// columns alone, so that sums come out the same wherever a row lies in memory and however its launch is cut.
#pragma once

#include "largest_vocab.h"
#include "numbers.cuh"
#include "reduce.cuh"

namespace mtp_ext {

inline constexpr int kRowThreads = 512;  // of the block that works on a row
inline constexpr int kRowWarps = kRowThreads / kWarp;
inline constexpr int kGroup = 8;  // columns of a lane at a time

struct Columns {
  int begin, end;
};

// The part of a warp, in whole groups where there are enough of them.
__device__ inline Columns share_of_warp(Columns all, int warp) {
  const int columns = all.end - all.begin;
  int width = (columns + kRowWarps - 1) / kRowWarps;
  if (width > kGroup) width = (width + kGroup - 1) / kGroup * kGroup;
  const int begin = min(all.begin + warp * width, all.end);
  return {begin, min(begin + width, all.end)};
}

// kGroup numbers as they lie in memory.
template <typename scalar_t>
union Group {
  uint4 vectors[kGroup * sizeof(scalar_t) / sizeof(uint4)];
  scalar_t numbers[kGroup];
};

// The columns from `column` to before `end`, at most kGroup; the others become -inf.
template <typename scalar_t>
__device__ inline Group<scalar_t> load_group(const scalar_t* row, int column, int end, bool aligned) {
  Group<scalar_t> group;
  if (aligned && end - column >= kGroup) {
    const auto* vectors = reinterpret_cast<const uint4*>(row + column);
#pragma unroll
    for (size_t i = 0; i < sizeof group / sizeof(uint4); ++i) group.vectors[i] = vectors[i];
  } else {
#pragma unroll
    for (int i = 0; i < kGroup; ++i) {
      group.numbers[i] = column + i < end ? row[column + i] : from_float<scalar_t>(-kInfinity);
    }
  }
  return group;
}

// Calls visit(column, x) for the groups of a lane in its warp's share of the columns: x [kGroup] are those from
// `column` on, -inf beyond the end. 64 bytes of a lane are on their way while it works on others.
template <typename scalar_t, typename Visit>
__device__ inline void visit_groups(const scalar_t* row, Columns share, Visit&& visit) {
  constexpr int kAhead = 64 / sizeof(Group<scalar_t>);
  constexpr int kStep = kWarp * kGroup;
  const bool aligned = is_aligned(row + share.begin);
  const int first = share.begin + threadIdx.x % kWarp * kGroup;
  Group<scalar_t> ahead[kAhead] = {};
#pragma unroll 1  // groups move up, and the first rounds only load: so that neither load nor visit is compiled many
                  // times
  for (int column = first - kAhead * kStep; column < share.end; column += kStep) {
    float x[kGroup];
#pragma unroll
    for (int i = 0; i < kGroup; ++i) x[i] = to_float(ahead[0].numbers[i]);
#pragma unroll
    for (int i = 0; i + 1 < kAhead; ++i) ahead[i] = ahead[i + 1];
    ahead[kAhead - 1] = load_group(row, column + kAhead * kStep, share.end, aligned);
    if (column >= first) visit(column, x);
  }
}

// The same for the whole row, all warps together.
template <typename scalar_t, typename Visit>
__device__ inline void visit_row(const scalar_t* row, int columns, Visit&& visit) {
  visit_groups(row, share_of_warp({0, columns}, threadIdx.x / kWarp), visit);
}

}  // namespace mtp_ext
