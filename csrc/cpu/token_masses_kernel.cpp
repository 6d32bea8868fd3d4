#include <cmath>

#include "simd.h"
#include "token_masses.h"

namespace mtp_ext {
namespace {

// Calls each(i, count) for the registers of [begin, end); the last one may hold fewer numbers.
template <typename Each>
void for_each_register(int64_t begin, int64_t end, const Each& each) {
  for (int64_t i = begin; i < end; i += kLanes) each(i, std::min(kLanes, end - i));
}

Floats load_some(const float* data, int64_t count) {
  return count == kLanes ? load(data) : load_partial(data, count, 0.0f);
}

template <typename scalar_t>
Floats load_logits(const scalar_t* logits, int64_t count) {
  return count == kLanes ? load(logits) : load_partial(logits, count, -kInfinity);
}

double sum_block(const float* masses, int64_t count) {
  Floats total{};
  for_each_register(0, count, [&](int64_t i, int64_t n) { total = total + load_some(masses + i, n); });
  return sum(total);
}

}  // namespace

template <typename scalar_t>
TokenMasses::TokenMasses(const scalar_t* logits, int64_t vocab, float scale, const Normalizer& normalizer,
                         const ParallelFor& parallel)
    : size_(vocab), masses_(new float[vocab]), parallel_(&parallel) {
  // The normaliser as a logit: what counts lies near it, where differences are exact.
  const Floats center = broadcast(static_cast<float>(normalizer.center + normalizer.octaves / scale));
  fill([&](int64_t begin, int64_t end) {
    Floats total{};
    for_each_register(begin, end, [&](int64_t i, int64_t count) {
      const Floats mass = exp2((load_logits(logits + i, count) - center) * scale);
      store_lanes(masses_.get() + i, count, mass);
      total = total + mass;
    });
    return sum(total);
  });
}

TokenMasses::TokenMasses(std::vector<int64_t> tokens, const std::vector<float>& masses, const ParallelFor& parallel)
    : tokens_(std::move(tokens)),
      size_(static_cast<int64_t>(tokens_.size())),
      masses_(new float[tokens_.size()]),
      parallel_(&parallel) {
  std::copy(masses.begin(), masses.end(), masses_.get());
  add_up();
}

template <typename Fill>
void TokenMasses::fill(const Fill& fill) {
  std::vector<double> sums(chunk_count(size_));
  (*parallel_)(chunk_count(size_), std::min(kChunk, size_), [&](int64_t chunk) {
    const int64_t end = std::min((chunk + 1) * kChunk, size_);
    for (int64_t begin = chunk * kChunk; begin < end; begin += kBlock) {
      sums[chunk] += static_cast<double>(fill(begin, std::min(begin + kBlock, end)));
    }
  });
  total_ = 0;
  for (const double sum : sums) total_ += sum;
  exact_total_ = total_;
}

void TokenMasses::add_up() {
  fill([&](int64_t begin, int64_t end) { return sum_block(masses_.get() + begin, end - begin); });
}

int64_t TokenMasses::place(int64_t token) const {
  if (tokens_.empty()) return token < size_ ? token : -1;
  const auto found = std::lower_bound(tokens_.begin(), tokens_.end(), token);
  return found != tokens_.end() && *found == token ? found - tokens_.begin() : -1;
}

double TokenMasses::share(int64_t token) const {
  const int64_t i = place(token);
  return i < 0 || total_ == 0 ? 0 : masses_[i] / total_;
}

void TokenMasses::remove(int64_t token) {
  const int64_t i = place(token);
  if (i < 0 || masses_[i] == 0) return;
  total_ -= masses_[i];
  masses_[i] = 0;
  // A difference keeps the absolute error of what it was taken from: a small one is added up anew.
  if (total_ < exact_total_ * 1e-3) add_up();
}

double TokenMasses::entropy() const {
  double sum_of_logs = 0;
  for (int64_t begin = 0; begin < size_; begin += kBlock) {
    Floats total{};
    for_each_register(begin, std::min(begin + kBlock, size_), [&](int64_t i, int64_t count) {
      const Floats mass = load_some(masses_.get() + i, count);
      total = fma(mass, log(max(mass, broadcast(std::numeric_limits<float>::min()))), total);
    });
    sum_of_logs += static_cast<double>(sum(total));
  }
  return std::log(total_) - sum_of_logs / total_;
}

int64_t TokenMasses::sample(double uniform) const {
  double total = 0;
  std::vector<double> sums;
  for (int64_t begin = 0; begin < size_; begin += kBlock) {
    sums.push_back(sum_block(masses_.get() + begin, std::min(kBlock, size_ - begin)));
    total += sums.back();
  }
  if (!(total > 0 && total < kInfinity)) return -1;
  const double threshold = uniform * total;
  double before = 0;
  int64_t block = 0;
  while (before + sums[block] <= threshold) before += sums[block++];
  int64_t last = -1;
  for (int64_t i = block * kBlock; i < std::min((block + 1) * kBlock, size_); ++i) {
    if (masses_[i] == 0) continue;
    before += masses_[i];
    last = i;
    if (before > threshold) break;
  }
  return tokens_.empty() ? last : tokens_[last];
}

void TokenMasses::subtract(double rate, const TokenMasses& draft, double draft_scale) {
  const Floats scale = broadcast(static_cast<float>(rate / total_));
  const Floats drafted = broadcast(static_cast<float>(-draft_scale));
  fill([&](int64_t begin, int64_t end) {
    float gathered[kBlock];
    const float* drafts = draft.masses_.get() + begin;
    if (!tokens_.empty()) {
      for (int64_t i = begin; i < end; ++i) gathered[i - begin] = draft.masses_[tokens_[i]];
      drafts = gathered;
    }
    Floats total{};
    for_each_register(begin, end, [&](int64_t i, int64_t count) {
      const Floats share = load_some(masses_.get() + i, count) * scale;
      const Floats mass = max(fma(load_some(drafts + i - begin, count), drafted, share), Floats{});
      store_lanes(masses_.get() + i, count, mass);
      total = total + mass;
    });
    return sum(total);
  });
}

#define MTP_EXT_INSTANTIATE(scalar_t) \
  template TokenMasses::TokenMasses(const scalar_t*, int64_t, float, const Normalizer&, const ParallelFor&);
MTP_EXT_INSTANTIATE(float)
MTP_EXT_INSTANTIATE(bfloat16)
MTP_EXT_INSTANTIATE(float16)
#undef MTP_EXT_INSTANTIATE

}  // namespace mtp_ext
