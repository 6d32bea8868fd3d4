#include "normalizer.h"
#include "simd.h"

namespace mtp_ext {
namespace {

constexpr float kLargestSum = 0x1p24f;  // of a chunk: a larger one has terms whose exponents are rounded too far off
#if defined(__FMA__)
constexpr float kLargestShift = 65536.0f;  // octaves; 2^-8 of one is still told apart from the next in float32
#else
constexpr float kLargestShift = 0.0f;  // scale * x is rounded before the shift is taken off: always from the center
#endif

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
  Floats total{};
  for (int64_t begin = 0; begin < columns; begin += kBlock) {
    const int64_t end = std::min(begin + kBlock, columns);
    Floats block{};
    Floats largest = broadcast(-kInfinity);
    const auto term = [&](Floats x) { return exp2(octaves.of<kCentered>(x)); };
    int64_t column = begin;
    // Four are added up before their sum: it then waits for the last addition once, and takes one register, of which
    // AVX2 has few.
    for (; column + 4 * kLanes <= end; column += 4 * kLanes) {
      const FloatsPair a = load_pair(logits + column), b = load_pair(logits + column + 2 * kLanes);
      block = block + ((term(a.first) + term(a.second)) + (term(b.first) + term(b.second)));
      if constexpr (kMaxima) largest = max(max(max(a.first, a.second), max(b.first, b.second)), largest);
    }
    for (; column < end; column += kLanes) {
      const int64_t lanes = std::min(kLanes, end - column);
      const Floats x = lanes == kLanes ? load(logits + column) : load_partial(logits + column, lanes, -kInfinity);
      block = block + term(x);
      if constexpr (kMaxima) largest = max(x, largest);
    }
    total = total + block;
    if constexpr (kMaxima) block_maxima[begin / kBlock] = maximum(largest);
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
