#include "mixture_topk.h"

namespace mtp_ext {
namespace {

// A bound and a mixture are rounded differently, each to within 1e-5 nats plus a few units in the last place.
float with_slack(float bound) { return bound + 1e-5f + 1e-6f * std::abs(bound); }

}  // namespace

MixtureTopK::MixtureTopK(const Mixture& mixture, const float* block_maxima, int64_t vocab, int64_t k)
    : mixture_(mixture), vocab_(vocab), k_(k), shares_(share_count(k), TopCandidates(k)) {
  if (mixture.state != RowState::kOrdinary) return;
  const int64_t count = block_count(vocab);
  Mixture maxima = mixture;  // the same terms over the maxima instead of the logits
  for (size_t i = 0; i < maxima.terms.size(); ++i) maxima.terms[i].offset = maxima.branches[i] * count;
  std::vector<float> bounds(count);
  for (int64_t first = 0; first < count; first += kTile) {
    mix_columns(block_maxima, maxima, first, std::min(kTile, count - first), bounds.data() + first);
  }
  blocks_.reserve(count);
  for (int64_t i = 0; i < count; ++i) blocks_.push_back({with_slack(bounds[i]), i});
  const auto first = blocks_.begin() + std::min<int64_t>(share_count(k), count);
  std::partial_sort(blocks_.begin(), first, blocks_.end(), better);
}

template <typename scalar_t>
void MixtureTopK::mix_block(const scalar_t* logits, const Block& block, TopCandidates& best) const {
  float values[kBlock];
  const int64_t column = block.index * kBlock;
  const int64_t columns = std::min(kBlock, vocab_ - column);
  mix_columns(logits, mixture_, column, columns, values);
  best.add_all(values, columns, column);
}

template <typename scalar_t>
void MixtureTopK::mix_first(const scalar_t* logits, int64_t share) {
  if (share >= static_cast<int64_t>(blocks_.size())) return;
  mix_block(logits, blocks_[share], shares_[share]);
  shares_[share].cut();
}

void MixtureTopK::agree() {
  TopCandidates best(k_);
  for (const TopCandidates& share : shares_) best.add_all(share);
  best.cut();
  const float threshold = best.threshold();
  const auto first = blocks_.begin() + std::min(shares_.size(), blocks_.size());
  const auto last = std::remove_if(first, blocks_.end(), [&](const Block& block) { return block.bound < threshold; });
  blocks_.erase(last, blocks_.end());
  std::sort(first, blocks_.end(), better);
}

template <typename scalar_t>
void MixtureTopK::mix_rest(const scalar_t* logits, int64_t share) {
  TopCandidates& best = shares_[share];
  for (size_t i = share + shares_.size(); i < blocks_.size(); i += shares_.size()) {
    best.cut();
    if (blocks_[i].bound < best.threshold() || blocks_[i].bound == -kInfinity) break;
    mix_block(logits, blocks_[i], best);
  }
}

void MixtureTopK::write(float* log_probs, int64_t* tokens) {
  std::fill_n(log_probs, k_, mixture_.state == RowState::kBroken ? kNaN : -kInfinity);
  std::fill_n(tokens, k_, int64_t{-1});
  TopCandidates best(k_);
  for (const TopCandidates& share : shares_) best.add_all(share);
  for (const Candidate& candidate : best.sorted()) {
    *log_probs++ = candidate.value;
    *tokens++ = candidate.id;
  }
}

#define MTP_EXT_INSTANTIATE(scalar_t)                             \
  template void MixtureTopK::mix_first(const scalar_t*, int64_t); \
  template void MixtureTopK::mix_rest(const scalar_t*, int64_t);
MTP_EXT_INSTANTIATE(float)
MTP_EXT_INSTANTIATE(bfloat16)
MTP_EXT_INSTANTIATE(float16)
#undef MTP_EXT_INSTANTIATE

}  // namespace mtp_ext
