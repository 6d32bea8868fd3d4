#include "mixture.h"

#include "simd.h"

namespace mtp_ext {
namespace {

constexpr int64_t kGroup = 8;            // branches summed in a register
constexpr int64_t kGroupsPerLevel = 32;  // groups summed in one buffer before it moves to the total
constexpr float kSmallest = 0x1p-80f;    // below it, terms under float32's 2^-126 may count

template <bool kCentered, typename scalar_t>
Floats octaves_of(const scalar_t* logits, const MixtureTerm& term, int64_t column, int64_t lanes) {
  const scalar_t* data = logits + term.offset + column;
  Floats x = lanes == kLanes ? load(data) : load_partial(data, lanes, -kInfinity);
  if constexpr (kCentered) x = x - broadcast(term.center);
  return fma(x, broadcast(kLog2E), broadcast(term.octaves));
}

// sums[i] += sum over the group of weight * 2^y, for whole registers of columns.
template <bool kCentered, typename scalar_t>
void add_group(const scalar_t* logits, const MixtureTerm* terms, int64_t count, int64_t column,
               int64_t columns, float* sums) {
  for (int64_t i = 0; i < columns; i += kLanes) {
    const int64_t lanes = std::min(kLanes, columns - i);
    Floats group{};
    for (int64_t b = 0; b < count; ++b) {
      const Floats y = octaves_of<kCentered>(logits, terms[b], column + i, lanes);
      group = fma(exp2(y), broadcast(terms[b].weight), group);
    }
    store(sums + i, load(sums + i) + group);
  }
}

// One register of columns in log space: two passes over the branches, no underflow.
template <typename scalar_t>
Floats mix_in_log_space(const scalar_t* logits, const Mixture& mixture, int64_t column, int64_t lanes) {
  Floats largest = broadcast(-kInfinity);
  for (const MixtureTerm& term : mixture.terms) {
    largest = max(octaves_of<true>(logits, term, column, lanes), largest);
  }
  const Floats finite = largest > -kInfinity ? largest : Floats{};
  Floats total{};
  for (const MixtureTerm& term : mixture.terms) {
    const Floats y = octaves_of<true>(logits, term, column, lanes) - finite;
    total = fma(exp2(y), broadcast(term.weight), total);
  }
  const Floats octaves_in_nats = finite * static_cast<float>(kLn2);
  const Floats result = (broadcast(static_cast<float>(mixture.base)) + octaves_in_nats) + log(total);
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
    if (!(log_weight < kInfinity) || normalizers[b].octaves != normalizers[b].octaves) {
      mixture.state = RowState::kBroken;
      return mixture;
    }
    largest = std::max(largest, log_weight);
    mixture.branches.push_back(b);
  }
  if (mixture.branches.empty()) {
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
    const double octaves = (log_weights[b] - largest) / kLn2 - normalizers[b].octaves;
    const float rounded = static_cast<float>(octaves);
    const float weight = static_cast<float>(std::exp2(octaves - rounded));
    mixture.terms.push_back({layout.offset(begin + b), normalizers[b].center, rounded, weight});
  }
  return mixture;
}

template <typename scalar_t>
void mix_columns(const scalar_t* logits, const Mixture& mixture, int64_t column, int64_t columns,
                 float* out) {
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
      const MixtureTerm* group = mixture.terms.data() + b;
      const int64_t count = std::min(kGroup, last - b);
      bool centered = false;
      for (int64_t i = 0; i < count; ++i) centered = centered || group[i].center != 0;
      if (centered) {
        add_group<true>(logits, group, count, column, columns, sums);
      } else {
        add_group<false>(logits, group, count, column, columns, sums);
      }
    }
    if (!one_level) {
      for (int64_t i = 0; i < padded; i += kLanes) store(total + i, load(total + i) + load(level + i));
    }
  }
  const Floats base = broadcast(static_cast<float>(mixture.base));
  for (int64_t i = 0; i < columns; i += kLanes) {
    const int64_t lanes = std::min(kLanes, columns - i);
    const Floats mixed = load(total + i);
    const Floats result = less_mask(mixed, broadcast(kSmallest))
                              ? mix_in_log_space(logits, mixture, column + i, lanes)
                              : base + log(mixed);
    if (lanes == kLanes) {
      store(out + i, result);
    } else {
      store_partial(out + i, lanes, result);
    }
  }
}

template <typename scalar_t>
float mix_column(const scalar_t* logits, const Mixture& mixture, int64_t column) {
  if (mixture.state != RowState::kOrdinary) return mixture.state == RowState::kEmpty ? -kInfinity : kNaN;
  const auto octaves_of_term = [&](const MixtureTerm& term) {
    const double logit = to_float(logits[term.offset + column]);
    return (logit - term.center) * kLog2E + term.octaves;
  };
  double largest = -static_cast<double>(kInfinity);
  for (const MixtureTerm& term : mixture.terms) largest = std::max(largest, octaves_of_term(term));
  if (largest == -static_cast<double>(kInfinity)) return -kInfinity;
  double total = 0;
  for (const MixtureTerm& term : mixture.terms) {
    total += std::exp2(octaves_of_term(term) - largest) * term.weight;
  }
  return static_cast<float>(mixture.base + (largest + std::log2(total)) * kLn2);
}

#define MTP_EXT_INSTANTIATE(scalar_t)                                                        \
  template void mix_columns(const scalar_t*, const Mixture&, int64_t, int64_t, float*);     \
  template float mix_column(const scalar_t*, const Mixture&, int64_t);
MTP_EXT_INSTANTIATE(float)
MTP_EXT_INSTANTIATE(bfloat16)
MTP_EXT_INSTANTIATE(float16)
#undef MTP_EXT_INSTANTIATE

}  // namespace mtp_ext
