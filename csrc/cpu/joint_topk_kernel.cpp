#include "joint_topk.h"
#include "top_candidates.h"

namespace mtp_ext {
namespace {

// A pair's log-probability as a function of its logit.
struct PairLogProb {
  double log_normalizer, slope, offset;

  PairLogProb(const Mixture& mixture, const MixtureTerm& term)
      : log_normalizer(term.log_normalizer),
        slope(static_cast<double>(kLog2E) * kLn2),  // not quite one, as in the normaliser
        offset(mixture.base + term.octaves * kLn2) {}

  float operator()(float logit) const { return static_cast<float>((logit - log_normalizer) * slope + offset); }
};

}  // namespace

template <typename scalar_t>
void joint_topk_row(const scalar_t* logits, const Mixture& mixture, const float* block_maxima, int64_t vocab, int64_t k,
                    float* log_probs, int64_t* branches, int64_t* tokens) {
  std::fill_n(log_probs, k, mixture.state == RowState::kBroken ? kNaN : -kInfinity);
  std::fill_n(branches, k, int64_t{-1});
  std::fill_n(tokens, k, int64_t{-1});
  if (mixture.state != RowState::kOrdinary) return;
  const int64_t blocks = block_count(vocab);
  TopCandidates best_blocks(k);
  for (size_t i = 0; i < mixture.terms.size(); ++i) {
    const PairLogProb log_prob(mixture, mixture.terms[i]);
    const float* maxima = block_maxima + mixture.branches[i] * blocks;
    for (int64_t block = 0; block < blocks; ++block) {
      best_blocks.add(log_prob(maxima[block]), static_cast<int64_t>(i) * blocks + block);
    }
  }
  best_blocks.cut();
  TopCandidates best(k, best_blocks.threshold());
  for (size_t i = 0; i < mixture.terms.size(); ++i) {
    const MixtureTerm& term = mixture.terms[i];
    const PairLogProb log_prob(mixture, term);
    const float* maxima = block_maxima + mixture.branches[i] * blocks;
    for (int64_t block = 0; block < blocks; ++block) {
      if (log_prob(maxima[block]) < best.threshold()) continue;
      const int64_t end = std::min((block + 1) * kBlock, vocab);
      for (int64_t token = block * kBlock; token < end; ++token) {
        best.add(log_prob(to_float(logits[term.offset + token])), mixture.branches[i] * vocab + token);
      }
    }
  }
  for (const Candidate& pair : best.sorted()) {
    *log_probs++ = pair.value;
    *branches++ = pair.id / vocab;
    *tokens++ = pair.id % vocab;
  }
}

#define MTP_EXT_INSTANTIATE(scalar_t)                                                                             \
  template void joint_topk_row(const scalar_t*, const Mixture&, const float*, int64_t, int64_t, float*, int64_t*, \
                               int64_t*);
MTP_EXT_INSTANTIATE(float)
MTP_EXT_INSTANTIATE(bfloat16)
MTP_EXT_INSTANTIATE(float16)
#undef MTP_EXT_INSTANTIATE

}  // namespace mtp_ext
