// The tokens of a row that are at least so probable, without looking at the others: blocks whose largest logit is lower
// are passed over.
#pragma once

#include <algorithm>
#include <cstdint>

#include "normalizer.h"
#include "simd.h"

namespace mtp_ext {

// Calls visit(logit, token) for the tokens of a logit of at least `lowest`, in ascending order. block_maxima
// [block_count(vocab)].
template <typename scalar_t, typename Visit>
void for_probable_tokens(const scalar_t* logits, int64_t vocab, const float* block_maxima, float lowest,
                         const Visit& visit) {
  for (int64_t begin = 0; begin < vocab; begin += kBlock) {
    if (block_maxima[begin / kBlock] < lowest) continue;
    const int64_t end = std::min(begin + kBlock, vocab);
    int64_t token = begin;
    for (; token + kLanes <= end; token += kLanes) {
      uint32_t above = ~less_mask(load(logits + token), broadcast(lowest)) & kAllLanes;
      for (; above; above &= above - 1) {
        const int64_t id = token + __builtin_ctz(above);
        visit(to_float(logits[id]), id);
      }
    }
    for (; token < end; ++token) {
      const float logit = to_float(logits[token]);
      if (logit >= lowest) visit(logit, token);
    }
  }
}

}  // namespace mtp_ext
