#include "normalizer.h"
#include "simd.h"

namespace mtp_ext {
namespace {

constexpr float kLargestSum = 0x1p24f;     // of a chunk: a larger one has terms whose exponents are rounded too far off
constexpr float kLargestShift = 65536.0f;  // octaves; 2^-8 of one is still told apart from the next in float32

// y = scale * (x - center) - shift, in octaves.
struct Octaves {
  float scale, center, shift;

  template <bool kCentered>
  Floats of(Floats x) const {
    if constexpr (kCentered) x = x - broadcast(center);
    return fma(x, broadcast(scale), broadcast(-shift));
  }
};

// Sum of 2^y over the columns, and the largest logit of each block.
template <bool kCentered, bool kMaxima, typename scalar_t>
float sum_columns(const scalar_t* logits, int64_t columns, const Octaves& octaves, float* block_maxima) {
  constexpr int64_t kWays = 4;  // sums that grow side by side, so that an addition need not wait for the last
  Floats total{};
  for (int64_t begin = 0; begin < columns; begin += kBlock) {
    const int64_t end = std::min(begin + kBlock, columns);
    Floats sums[kWays] = {};
    Floats maxima[kWays] = {broadcast(-kInfinity), broadcast(-kInfinity), broadcast(-kInfinity), broadcast(-kInfinity)};
    const auto add = [&](Floats x, int64_t way) {
      sums[way] = sums[way] + exp2(octaves.of<kCentered>(x));
      if constexpr (kMaxima) maxima[way] = max(x, maxima[way]);
    };
    int64_t column = begin;
    for (; column + kWays * kLanes <= end; column += kWays * kLanes) {
      for (int64_t way = 0; way < kWays; way += 2) {
        const FloatsPair pair = load_pair(logits + column + way * kLanes);
        add(pair.first, way);
        add(pair.second, way + 1);
      }
    }
    for (; column + kLanes <= end; column += kLanes) add(load(logits + column), 0);
    if (column < end) add(load_partial(logits + column, end - column, -kInfinity), 1);
    total = total + ((sums[0] + sums[1]) + (sums[2] + sums[3]));
    if constexpr (kMaxima) {
      block_maxima[begin / kBlock] = maximum(max(max(maxima[0], maxima[1]), max(maxima[2], maxima[3])));
    }
  }
  return sum(total);
}

// The largest logit that is a number, or NaN where none is and not all are -inf.
template <typename scalar_t>
float true_maximum(const scalar_t* logits, int64_t columns) {
  Floats largest = broadcast(-kInfinity);
  int64_t i = 0;
  for (; i + kLanes <= columns; i += kLanes) largest = max(load(logits + i), largest);
  largest = max(load_partial(logits + i, columns - i, -kInfinity), largest);
  const float result = maximum(largest);
  if (result > -kInfinity) return result;
  for (i = 0; i < columns; ++i) {
    if (std::isnan(to_float(logits[i]))) return kNaN;
  }
  return result;
}

template <bool kMaxima, typename scalar_t>
ChunkSum sum_any_chunk(const scalar_t* logits, int64_t columns, float scale, float* block_maxima) {
  const Floats first = columns >= kLanes ? load(logits) : load_partial(logits, columns, -kInfinity);
  ChunkSum result{0, maximum(first) * scale, 0};
  if (std::abs(result.shift) <= kLargestShift) {
    result.sum = sum_columns<false, kMaxima>(logits, columns, {scale, 0, result.shift}, block_maxima);
    if (result.sum < kLargestSum) return result;
  }
  result = {true_maximum(logits, columns), 0, 0};
  if (result.center == -kInfinity) {  // nothing but -inf: an empty sum
    if constexpr (kMaxima) std::fill_n(block_maxima, block_count(columns), -kInfinity);
  } else if (std::abs(result.center) < kInfinity) {
    result.sum = sum_columns<true, kMaxima>(logits, columns, {scale, result.center, 0}, block_maxima);
  } else {
    result.sum = kNaN;
  }
  return result;
}

}  // namespace

template <typename scalar_t>
ChunkSum sum_chunk(const scalar_t* logits, int64_t columns, float scale, float* block_maxima) {
  return block_maxima ? sum_any_chunk<true>(logits, columns, scale, block_maxima)
                      : sum_any_chunk<false>(logits, columns, scale, block_maxima);
}

Normalizer join_chunks(const ChunkSum* sums, int64_t chunks, float scale) {
  const double octaves_per_logit = scale;
  Normalizer result{0, -static_cast<double>(kInfinity)};
  bool found = false;
  for (int64_t i = 0; i < chunks; ++i) {  // the center of all: that of the largest chunk
    if (sums[i].sum != sums[i].sum) return {0, kNaN};
    if (sums[i].sum == 0) continue;
    const double octaves = octaves_per_logit * sums[i].center + sums[i].shift;
    if (found && octaves <= result.octaves) continue;
    result = {sums[i].center, octaves};
    found = true;
  }
  if (!found) return {0, kNaN};
  if (std::abs(octaves_per_logit * result.center) <= kLargestShift) result.center = 0;
  const double reference = result.octaves - octaves_per_logit * result.center;
  double total = 0;
  for (int64_t i = 0; i < chunks; ++i) {
    const double center = static_cast<double>(sums[i].center) - result.center;
    const double octaves = octaves_per_logit * center + sums[i].shift - reference;
    if (sums[i].sum != 0) total += sums[i].sum * std::exp2(octaves);
  }
  result.octaves = reference + std::log2(total);
  return result;
}

#define MTP_EXT_INSTANTIATE(scalar_t) template ChunkSum sum_chunk(const scalar_t*, int64_t, float, float*);
MTP_EXT_INSTANTIATE(float)
MTP_EXT_INSTANTIATE(bfloat16)
MTP_EXT_INSTANTIATE(float16)
#undef MTP_EXT_INSTANTIATE

}  // namespace mtp_ext
