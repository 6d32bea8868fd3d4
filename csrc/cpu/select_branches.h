// The nucleus of a distribution: the fewest most probable tokens whose probabilities add up to top_p.
//   in the order (logit descending, token ascending), keep a token while the mass before it is below top_p
//
// No full sort: tokens within some octaves of the best are collected, from the blocks whose maximum lies
// there, and sorted; only where their mass does not reach top_p is the reach extended.
#pragma once

#include <cstdint>

#include "../nucleus_limits.h"
#include "normalizer.h"

namespace mtp_ext {

struct Nucleus {
  int64_t count;       // of the tokens kept
  float dropped_mass;  // the probability of all others
};

// logits [vocab] with their normaliser and block maxima; writes tokens and log_probs [width] in nats, padded
// with -1 and -inf. A row without a normaliser becomes one token -1 of log-probability NaN.
template <typename scalar_t>
Nucleus select_row(const scalar_t* logits, int64_t vocab, const Normalizer& normalizer, const float* block_maxima,
                   const NucleusLimits& limits, int64_t* tokens, float* log_probs);

}  // namespace mtp_ext
