#include "mixture.h"
#include "simd.h"

namespace mtp_ext {
namespace {

constexpr int64_t kGroup = 8;                // branches summed in a register
constexpr int64_t kGroupsPerLevel = 32;      // groups summed in one buffer before it moves to the total
constexpr double kOctavesPerLogit = kLog2E;  // as rounded as in the normaliser
constexpr float kSmallest = 0x1p-80f;        // below it, terms under float32's 2^-126 may count

Floats octaves_of(Floats x, const MixtureTerm& term) {
  return fma(x - broadcast(term.log_normalizer), broadcast(kLog2E), broadcast(term.octaves));
}

template <typename scalar_t>
Floats load_columns(const scalar_t* data, int64_t lanes) {
  return lanes == kLanes ? load(data) : load_partial(data, lanes, -kInfinity);
}

// sums[i] += sum over the group of 2^y, for whole registers of columns.
template <typename scalar_t>
void add_group(const scalar_t* logits, const MixtureTerm* terms, int64_t count, int64_t column, int64_t columns,
               float* sums) {
  constexpr int64_t kPairs = 2;  // enough independent exponentials to hide their latency
  int64_t i = 0;
  for (; i + kPairs * 2 * kLanes <= columns; i += kPairs * 2 * kLanes) {
    FloatsPair group[kPairs] = {};
    for (int64_t b = 0; b < count; ++b) {
      const scalar_t* data = logits + terms[b].offset + column + i;
      for (int64_t p = 0; p < kPairs; ++p) {
        const FloatsPair x = load_pair(data + p * 2 * kLanes);
        group[p].first = group[p].first + exp2(octaves_of(x.first, terms[b]));
        group[p].second = group[p].second + exp2(octaves_of(x.second, terms[b]));
      }
    }
    for (int64_t p = 0; p < kPairs; ++p) {
      const FloatsPair ordered = in_order<scalar_t>(group[p]);
      float* out = sums + i + p * 2 * kLanes;
      store(out, load(out) + ordered.first);
      store(out + kLanes, load(out + kLanes) + ordered.second);
    }
  }
  for (; i < columns; i += kLanes) {
    Floats group{};
    for (int64_t b = 0; b < count; ++b) {
      const scalar_t* data = logits + terms[b].offset + column + i;
      group = group + exp2(octaves_of(load_columns(data, std::min(kLanes, columns - i)), terms[b]));
    }
    store(sums + i, load(sums + i) + group);
  }
}

// One register of columns in log space: two passes over the branches, no underflow. In nats, since a logit as low as
// float32 goes has no octaves.
template <typename scalar_t>
Floats mix_in_log_space(const scalar_t* logits, const Mixture& mixture, int64_t column, int64_t lanes) {
  const auto nats_of = [&](const MixtureTerm& term) {
    const Floats x = load_columns(logits + term.offset + column, lanes);
    return (x - broadcast(term.log_normalizer)) + broadcast(static_cast<float>(term.octaves * kLn2));
  };
  Floats largest = broadcast(-kInfinity);
  for (const MixtureTerm& term : mixture.terms) largest = max(nats_of(term), largest);
  const Floats finite = largest > -kInfinity ? largest : Floats{};
  Floats total{};
  for (size_t first = 0; first < mixture.terms.size(); first += kGroup * kGroupsPerLevel) {
    const size_t last = std::min<size_t>(first + kGroup * kGroupsPerLevel, mixture.terms.size());
    Floats level{};
    for (size_t b = first; b < last; ++b) level = level + exp2((nats_of(mixture.terms[b]) - finite) * kLog2E);
    total = total + level;
  }
  const Floats result = (broadcast(static_cast<float>(mixture.base)) + finite) + log(total);
  return largest > -kInfinity ? result : broadcast(-kInfinity);
}

}  // namespace

Mixture make_mixture(const BranchLayout& layout, int64_t begin, int64_t end, const float* log_weights,
                     const Normalizer* normalizers, bool renormalize) {
  Mixture mixture;
  double largest = -static_cast<double>(kInfinity);
  for (int64_t b = 0; b < end - begin; ++b) {
    const double log_weight = log_weights[b];
    if (log_weight == -kInfinity) continue;
    const bool has_normalizer = normalizers[b].octaves == normalizers[b].octaves || layout.vocab == 0;
    if (!(log_weight < kInfinity) || !has_normalizer) {
      mixture.state = RowState::kBroken;
      return mixture;
    }
    largest = std::max(largest, log_weight);
    mixture.branches.push_back(b);
  }
  if (mixture.branches.empty() || layout.vocab == 0) {
    mixture.state = RowState::kEmpty;
    return mixture;
  }
  mixture.base = largest;
  if (renormalize) {
    double total = 0;
    for (const int64_t b : mixture.branches) total += std::exp(log_weights[b] - largest);
    mixture.base = -std::log(total);
  }
  mixture.terms.reserve(mixture.branches.size());
  for (const int64_t b : mixture.branches) {
    const Normalizer& normalizer = normalizers[b];
    const auto log_normalizer = static_cast<float>(normalizer.center + normalizer.octaves / kLog2E);
    const double lost = kOctavesPerLogit * (static_cast<double>(normalizer.center) - log_normalizer);
    const double octaves = (log_weights[b] - largest) / kLn2 - (lost + normalizer.octaves);
    mixture.terms.push_back({layout.offset(begin + b), log_normalizer, static_cast<float>(octaves)});
  }
  return mixture;
}

template <typename scalar_t>
void mix_columns(const scalar_t* logits, const Mixture& mixture, int64_t column, int64_t columns, float* out) {
  if (mixture.state != RowState::kOrdinary) {
    std::fill_n(out, columns, mixture.state == RowState::kEmpty ? -kInfinity : kNaN);
    return;
  }
  alignas(64) float total[kTile];
  alignas(64) float level[kTile];
  const int64_t padded = ceil_div(columns, kLanes) * kLanes;
  std::fill_n(total, padded, 0.0f);
  const auto terms = static_cast<int64_t>(mixture.terms.size());
  const bool one_level = terms <= kGroup * kGroupsPerLevel;
  float* sums = one_level ? total : level;
  for (int64_t first = 0; first < terms; first += kGroup * kGroupsPerLevel) {
    if (!one_level) std::fill_n(level, padded, 0.0f);
    const int64_t last = std::min(first + kGroup * kGroupsPerLevel, terms);
    for (int64_t b = first; b < last; b += kGroup) {
      add_group(logits, mixture.terms.data() + b, std::min(kGroup, last - b), column, columns, sums);
    }
    if (!one_level) {
      for (int64_t i = 0; i < padded; i += kLanes) store(total + i, load(total + i) + load(level + i));
    }
  }
  const Floats base = broadcast(static_cast<float>(mixture.base));
  for (int64_t i = 0; i < columns; i += kLanes) {
    const int64_t lanes = std::min(kLanes, columns - i);
    const Floats mixed = load(total + i);
    const bool too_small = less_mask(mixed, broadcast(kSmallest)) & kAllLanes >> (kLanes - lanes);
    const Floats result = too_small ? mix_in_log_space(logits, mixture, column + i, lanes) : base + log(mixed);
    store_lanes(out + i, lanes, result);
  }
}

template <typename scalar_t>
float mix_column(const scalar_t* logits, const Mixture& mixture, int64_t column) {
  if (mixture.state != RowState::kOrdinary) return mixture.state == RowState::kEmpty ? -kInfinity : kNaN;
  const auto octaves_of_term = [&](const MixtureTerm& term) {
    const double logit = to_float(logits[term.offset + column]);
    return (logit - term.log_normalizer) * kOctavesPerLogit + term.octaves;
  };
  double largest = -static_cast<double>(kInfinity);
  for (const MixtureTerm& term : mixture.terms) largest = std::max(largest, octaves_of_term(term));
  if (largest == -static_cast<double>(kInfinity)) return -kInfinity;
  double total = 0;
  for (const MixtureTerm& term : mixture.terms) {
    total += std::exp2(octaves_of_term(term) - largest);
  }
  return static_cast<float>(mixture.base + (largest + std::log2(total)) * kLn2);
}

#define MTP_EXT_INSTANTIATE(scalar_t)                                                   \
  template void mix_columns(const scalar_t*, const Mixture&, int64_t, int64_t, float*); \
  template float mix_column(const scalar_t*, const Mixture&, int64_t);
MTP_EXT_INSTANTIATE(float)
MTP_EXT_INSTANTIATE(bfloat16)
MTP_EXT_INSTANTIATE(float16)
#undef MTP_EXT_INSTANTIATE

}  // namespace mtp_ext
