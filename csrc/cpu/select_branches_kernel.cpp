#include "probable_tokens.h"
#include "select_branches.h"
#include "top_candidates.h"

namespace mtp_ext {
namespace {

// Octaves below the best token. Real nuclei of 0.99 end 10 to 20 octaves down.
constexpr float kReaches[] = {12, 20, 40, kInfinity};

}  // namespace

template <typename scalar_t>
Nucleus select_row(const scalar_t* logits, int64_t vocab, const Normalizer& normalizer, const float* block_maxima,
                   const NucleusLimits& limits, int64_t* tokens, float* log_probs) {
  std::fill_n(tokens, limits.width, int64_t{-1});
  std::fill_n(log_probs, limits.width, -kInfinity);
  if (normalizer.octaves != normalizer.octaves) {
    log_probs[0] = kNaN;
    return {1, kNaN};
  }
  const float best = *std::max_element(block_maxima, block_maxima + block_count(vocab));
  std::vector<Candidate> found;
  found.reserve(kFirstCandidates);
  int64_t count = 0;
  double mass = 0;
  for (const float reach : kReaches) {
    const float lowest = std::max(best - reach / limits.scale, std::numeric_limits<float>::lowest());  // never -inf
    found.clear();
    for_probable_tokens(logits, vocab, block_maxima, lowest,
                        [&](float logit, int64_t token) { found.push_back({logit, token}); });
    const bool full = static_cast<int64_t>(found.size()) >= limits.width;
    if (full) {
      std::nth_element(found.begin(), found.begin() + (limits.width - 1), found.end(), precedes);
      found.resize(limits.width);
    }
    std::sort(found.begin(), found.end(), precedes);
    count = 0;
    mass = 0;
    for (const Candidate& token : found) {
      if (mass >= limits.top_p && limits.top_p < 1) break;
      const double octaves = (static_cast<double>(token.value) - normalizer.center) * limits.scale - normalizer.octaves;
      mass += std::exp2(octaves);
      tokens[count] = token.id;
      log_probs[count] = static_cast<float>(octaves * kLn2);
      ++count;
    }
    if (full || (mass >= limits.top_p && limits.top_p < 1)) break;
  }
  return {count, static_cast<float>(std::max(0.0, 1.0 - mass))};
}

#define MTP_EXT_INSTANTIATE(scalar_t)                                                                          \
  template Nucleus select_row(const scalar_t*, int64_t, const Normalizer&, const float*, const NucleusLimits&, \
                              int64_t*, float*);
MTP_EXT_INSTANTIATE(float)
MTP_EXT_INSTANTIATE(bfloat16)
MTP_EXT_INSTANTIATE(float16)
#undef MTP_EXT_INSTANTIATE

}  // namespace mtp_ext
