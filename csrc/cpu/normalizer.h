// The log-normaliser of every branch, the first of the two passes over the logits:
//   log2 sum_v 2^(scale * logits[branch, v])                       scale in octaves per logit: log2(e) /
//   temperature
// A branch is cut into chunks, which are the unit of parallel work; a chunk's sum does not depend on who
// computes it. One running float32 sum over 128,256 exponentials is too inaccurate (1.2e-5); here no lane
// adds more than eight numbers before its sum moves one level up, and chunks are added in double.
//
// Each logit is read once and costs one exponential: the shift that keeps 2^y in range is taken from the
// chunk's first register instead of a pass for the maximum. Its own exponential is near 1, so that nothing
// that counts can underflow; a chunk that overflows, or starts with -inf, is done again with its true
// maximum.
#pragma once

#include <cstdint>

#include "../branch_layout.h"

namespace mtp_ext {

inline constexpr int64_t kChunk = 8192;  // columns; a chunk of float32 is as large as a first-level cache
inline constexpr int64_t kBlock = 512;   // columns; the grain of the bounds that top-k prunes with

inline int64_t chunk_count(int64_t vocab) { return ceil_div(vocab, kChunk); }
inline int64_t block_count(int64_t vocab) { return ceil_div(vocab, kBlock); }

// A sum of exponentials far from one: sum_v 2^(scale * logit) = 2^(scale * center + shift) * sum. The center
// is 0 but where scale * logit is too large to be added to in float32. A sum of 0 is an empty one, NaN a
// broken one.
struct ChunkSum {
  float center = 0;  // a logit
  float shift = 0;   // octaves
  float sum = 0;
};

struct Normalizer {
  float center = 0;    // a logit; the normaliser is scale * center + octaves
  double octaves = 0;  // NaN where all logits are -inf or one is NaN or +inf
};

// The sum of one chunk of `columns` logits. `block_maxima`, where not null, gets the largest logit of
// each of its blocks.
template <typename scalar_t>
ChunkSum sum_chunk(const scalar_t* logits, int64_t columns, float scale, float* block_maxima);

// Joins the sums of one branch's chunks.
Normalizer join_chunks(const ChunkSum* sums, int64_t chunks, float scale);

}  // namespace mtp_ext
