#include <vector>

#include "argmax.h"
#include "normalizer.h"
#include "simd.h"

namespace mtp_ext {
namespace {

// The first block with the largest logit of a chunk.
struct ChunkBest {
  float value = -kInfinity;
  int64_t block = 0;  // its first column in the chunk
};

template <typename scalar_t>
ChunkBest best_of_chunk(const scalar_t* logits, int64_t columns) {
  constexpr int64_t kWays = 4;  // maxima that grow side by side, so that one need not wait for the last
  ChunkBest best;
  Integers not_a_number{};
  for (int64_t begin = 0; begin < columns; begin += kBlock) {
    const int64_t end = std::min(begin + kBlock, columns);
    Floats maxima[kWays] = {broadcast(-kInfinity), broadcast(-kInfinity), broadcast(-kInfinity), broadcast(-kInfinity)};
    const auto add = [&](Floats x, int64_t way) {
      maxima[way] = max(x, maxima[way]);
      not_a_number |= x != x;
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
    const float largest = maximum(max(max(maxima[0], maxima[1]), max(maxima[2], maxima[3])));
    if (largest > best.value) best = {largest, begin};
  }
  for (int64_t lane = 0; lane < kLanes; ++lane) {
    if (not_a_number[lane]) best.value = kNaN;
  }
  return best;
}

}  // namespace

template <typename scalar_t>
int64_t argmax(const scalar_t* logits, int64_t vocab, const ParallelFor& parallel) {
  std::vector<ChunkBest> chunks(chunk_count(vocab));
  parallel(chunk_count(vocab), std::min(kChunk, vocab),
           [&](int64_t i) { chunks[i] = best_of_chunk(logits + i * kChunk, std::min(kChunk, vocab - i * kChunk)); });
  float best = -kInfinity;
  int64_t token = -1;
  for (int64_t i = 0; i < chunk_count(vocab); ++i) {
    if (chunks[i].value == kInfinity || chunks[i].value != chunks[i].value) return -1;
    if (chunks[i].value <= best) continue;
    best = chunks[i].value;
    token = i * kChunk + chunks[i].block;
  }
  if (token < 0) return -1;
  while (to_float(logits[token]) != best) ++token;
  return token;
}

#define MTP_EXT_INSTANTIATE(scalar_t) template int64_t argmax(const scalar_t*, int64_t, const ParallelFor&);
MTP_EXT_INSTANTIATE(float)
MTP_EXT_INSTANTIATE(bfloat16)
MTP_EXT_INSTANTIATE(float16)
#undef MTP_EXT_INSTANTIATE

}  // namespace mtp_ext
