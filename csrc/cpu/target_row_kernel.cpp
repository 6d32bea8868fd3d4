#include <cmath>

#include "probable_tokens.h"
#include "target_row.h"

namespace mtp_ext {
namespace {

// Octaves below the best token that are looked at, one after the other. Real nuclei of 0.9 end 3 to 10 octaves down.
constexpr double kReaches[] = {10, 20, 40, std::numeric_limits<double>::infinity()};

struct Token {
  float logit;
  float mass;  // against the best token's
  int64_t id;
};

bool more_probable(const Token& a, const Token& b) { return a.logit > b.logit || (a.logit == b.logit && a.id < b.id); }

double sum_masses(const Token* begin, const Token* end) {
  double sum = 0;
  for (const Token* token = begin; token != end; ++token) sum += token->mass;
  return sum;
}

// Keeps the most probable tokens: each before which less than `mass` lies.
void keep_mass(std::vector<Token>& tokens, double mass) {
  size_t low = 0, high = tokens.size();  // that many are surely kept, at most so many are
  double before = 0;
  while (high - low > 1) {
    const size_t middle = (low + high) / 2;
    std::nth_element(tokens.begin() + low, tokens.begin() + middle, tokens.begin() + high, more_probable);
    const double upper = sum_masses(tokens.data() + low, tokens.data() + middle);
    if (before + upper >= mass) {
      high = middle;
    } else {
      before += upper;
      low = middle;
    }
  }
  tokens.resize(high);
}

// The tokens that are left after top-k, top-p and min-p, in ascending order.
template <typename scalar_t>
std::vector<Token> truncate(const scalar_t* logits, int64_t vocab, const TargetLimits& limits,
                            const Normalizer& normalizer, const std::vector<float>& block_maxima) {
  const float best = *std::max_element(block_maxima.begin(), block_maxima.end());
  const double center = static_cast<double>(normalizer.center) - best;
  const double all = std::exp2(center * limits.scale + normalizer.octaves);  // mass of the vocabulary
  const bool by_rank = limits.top_k < vocab;
  const double least_octaves = std::log2(limits.min_p);  // -inf where there is no limit
  std::vector<Token> tokens;
  for (const double reach : kReaches) {
    // What min_p drops need not be looked at, unless its mass counts for top_p.
    const bool enough = (!by_rank || limits.top_p == 1) && -reach <= least_octaves;
    const double octaves = enough ? least_octaves : -reach;
    // A little lower than the rounding of this sum; and never -inf, whose tokens are impossible.
    const double lowest = best + (octaves * 1.0001 - 1e-3) / limits.scale;
    tokens.clear();
    for_probable_tokens(
        logits, vocab, block_maxima.data(),
        static_cast<float>(std::max<double>(lowest, std::numeric_limits<float>::lowest())),
        [&](float logit, int64_t id) { tokens.push_back({logit, std::exp2((logit - best) * limits.scale), id}); });
    const bool full = by_rank && static_cast<int64_t>(tokens.size()) >= limits.top_k;
    if (full) {
      std::nth_element(tokens.begin(), tokens.begin() + (limits.top_k - 1), tokens.end(), more_probable);
      tokens.resize(limits.top_k);
    }
    const bool last = full || enough || reach == kInfinity;
    const double found = sum_masses(tokens.data(), tokens.data() + tokens.size());
    const double mass = limits.top_p * (by_rank ? found : all);
    if (limits.top_p < 1 && (last || (!by_rank && found >= mass))) {
      keep_mass(tokens, mass);
      break;
    }
    if (last) break;
  }
  const auto dropped = [&](const Token& token) {
    return (static_cast<double>(token.logit) - best) * limits.scale < least_octaves;
  };
  tokens.erase(std::remove_if(tokens.begin(), tokens.end(), dropped), tokens.end());
  std::sort(tokens.begin(), tokens.end(), [](const Token& a, const Token& b) { return a.id < b.id; });
  return tokens;
}

}  // namespace

template <typename scalar_t>
TargetRow<scalar_t>::TargetRow(const scalar_t* logits, int64_t vocab, const TargetLimits& limits,
                               const ParallelFor& parallel)
    : logits_(logits), vocab_(vocab), scale_(limits.scale), parallel_(&parallel) {
  const bool truncated = limits.truncate(vocab);
  std::vector<ChunkSum> sums(chunk_count(vocab));
  std::vector<float> block_maxima(truncated ? block_count(vocab) : 0);
  parallel(chunk_count(vocab), std::min(kChunk, vocab), [&](int64_t i) {
    const int64_t column = i * kChunk;
    sums[i] = sum_chunk(logits + column, std::min(kChunk, vocab - column), scale_,
                        truncated ? block_maxima.data() + column / kBlock : nullptr);
  });
  normalizer_ = join_chunks(sums.data(), static_cast<int64_t>(sums.size()), scale_);
  if (broken() || !truncated) return;
  std::vector<int64_t> ids;
  std::vector<float> masses;
  for (const Token& token : truncate(logits, vocab, limits, normalizer_, block_maxima)) {
    ids.push_back(token.id);
    masses.push_back(token.mass);
  }
  masses_.emplace(std::move(ids), masses, parallel);
}

template <typename scalar_t>
double TargetRow<scalar_t>::probability(int64_t token) const {
  if (masses_) return masses_->share(token);
  const double logit = to_float(logits_[token]);
  return std::exp2((logit - normalizer_.center) * scale_ - normalizer_.octaves);
}

template <typename scalar_t>
TokenMasses& TargetRow<scalar_t>::masses() {
  if (!masses_) masses_.emplace(logits_, vocab_, scale_, normalizer_, *parallel_);
  return *masses_;
}

template class TargetRow<float>;
template class TargetRow<bfloat16>;
template class TargetRow<float16>;

}  // namespace mtp_ext
