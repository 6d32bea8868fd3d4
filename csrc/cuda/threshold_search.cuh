// Where a row's most probable tokens end: by their number or by their mass, exactly, without a sort.
//   the least priority p such that less than `target` weight lies before it, by priority_of (priority.cuh)
// Radix selection: a histogram of weights by the leading bits of the priority, from the best down, finds the bin in
// which the target lies; the next reading looks at that bin alone, by the bits that follow. Weights are integers, so
// that atomics may add them up in any order. The first histogram is by octaves below the best token, where logits lie
// spread out, while the leading bits of a float are the same for most of them: atomics on one address are slow.
#pragma once

#include "priority.cuh"
#include "row_statistics.cuh"
#include "scan.cuh"

namespace mtp_ext {

inline constexpr int kDigitBits = 11;
inline constexpr int kBins = 1 << kDigitBits;
inline constexpr float kBinsPerOctave = 64;

struct ThresholdScratch {
  uint32_t low[kBins];  // of the weights, 64 bits in two words: shared memory adds 32 bits at a time
  uint32_t high[kBins];
  uint32_t bin;
  uint64_t before, within;  // weight before the chosen bin and in it
};

__device__ inline void add_weight(ThresholdScratch& scratch, uint32_t bin, uint64_t weight) {
  if (weight == 0) return;
  const auto low = static_cast<uint32_t>(weight);
  const uint32_t old = atomicAdd(&scratch.low[bin], low);
  const uint32_t high = static_cast<uint32_t>(weight >> 32) + (old + low < old);
  if (high > 0) atomicAdd(&scratch.high[bin], high);
}

// Chooses the first bin through which at least `target` weight lies, or none: then it is kBins.
__device__ inline void choose_bin(ThresholdScratch& scratch, uint64_t target, RowScratch& sums) {
  constexpr int kBinsPerThread = kBins / kRowThreads;
  __syncthreads();
  uint64_t weights[kBinsPerThread], weight = 0;
#pragma unroll
  for (int i = 0; i < kBinsPerThread; ++i) {
    const int bin = threadIdx.x * kBinsPerThread + i;
    weights[i] = static_cast<uint64_t>(scratch.high[bin]) << 32 | scratch.low[bin];
    weight += weights[i];
  }
  const Prefix<uint64_t> prefix = scan_block(weight, sums.integers);
  if (threadIdx.x == 0 && prefix.total < target) scratch.bin = kBins;
  if (prefix.before < target && target <= prefix.through) {
    uint64_t before = prefix.before;
#pragma unroll
    for (int i = 0; i < kBinsPerThread; ++i) {
      if (before < target && target <= before + weights[i]) {
        scratch.bin = threadIdx.x * kBinsPerThread + i;
        scratch.before = before;
        scratch.within = weights[i];
      }
      before += weights[i];
    }
  }
  __syncthreads();
}

// for_each(visit) calls visit(value, id) for all candidates of a thread; those of value -inf are none. `best` is the
// largest value, `scale` octaves in a value. 0 where all candidates together have less weight than the target.
template <typename ForEach, typename Weight>
__device__ uint64_t find_threshold(const ForEach& for_each, float best, float scale, const Weight& weight_of,
                                   uint64_t target, ThresholdScratch& scratch, RowScratch& sums) {
  const auto octave_bin = [&](float value) {
    return static_cast<uint32_t>(fminf((best - value) * scale * kBinsPerOctave, kBins - 1));
  };
  uint32_t octaves = 0;
  uint64_t prefix = 0;
  int shift = 64;
  for (int bits = 0; shift > 0; bits = min(kDigitBits, shift)) {  // no bits at first: by octaves
    __syncthreads();
    for (int bin = threadIdx.x; bin < kBins; bin += kRowThreads) scratch.low[bin] = scratch.high[bin] = 0;
    __syncthreads();
    const int next_shift = shift - bits;
    const uint32_t last_digit = (1u << bits) - 1;
    for_each([&](float value, uint32_t id) {
      if (value == -kInfinity) return;
      const uint32_t bin = octave_bin(value);
      if (bits == 0) {
        add_weight(scratch, bin, weight_of(value, id));
        return;
      }
      const uint64_t digits = priority_of(value, id) >> next_shift;
      if (bin != octaves || digits >> bits != prefix) return;
      add_weight(scratch, last_digit - (static_cast<uint32_t>(digits) & last_digit), weight_of(value, id));
    });
    choose_bin(scratch, target, sums);
    if (scratch.bin == kBins) return 0;
    target -= scratch.before;
    if (bits == 0) {
      octaves = scratch.bin;
      continue;
    }
    prefix = prefix << bits | (last_digit - scratch.bin);
    shift = next_shift;
    // All of the bin are among the first; its end is theirs where it does not reach further down than the octaves do.
    if (scratch.within == target && octave_bin(value_of(prefix << shift)) == octaves) break;
  }
  return prefix << shift;
}

}  // namespace mtp_ext
