// The mixture of a row's branches, the second of the two passes over the logits:
//   out[v] = log sum_b exp(w[b]) softmax(logits[b])[v] = base + log sum_b 2^y[b, v]                    (nats)
//   y[b, v] = log2(e) * (logits[b, v] - log_normalizer[b]) + octaves[b]
// Subtracting the normaliser first keeps y as precise as a log-probability, however large the logits;
// `octaves` is the weight plus what float32 lost of the normaliser. Columns whose sum is so small that terms
// may have been lost are computed again in log space. Equation 6 of arXiv 2502.09419.
#pragma once

#include <cstdint>
#include <vector>

#include "../branch_layout.h"
#include "normalizer.h"

namespace mtp_ext {

inline constexpr int64_t kTile = 2048;  // columns that are mixed at a time; a multiple of kBlock

struct MixtureTerm {
  int64_t offset;        // of the branch's first logit, in elements
  float log_normalizer;  // nats
  float octaves;
};

enum class RowState { kOrdinary, kEmpty, kBroken };  // kEmpty: every result is -inf; kBroken: NaN

struct Mixture {
  std::vector<MixtureTerm> terms;  // of the branches whose weight is not -inf, in order
  std::vector<int64_t> branches;   // their numbers within the row
  double base = 0;                 // nats
  RowState state = RowState::kOrdinary;
};

// The mixture of the branches begin <= b < end, whose weights and normalisers start at the two pointers.
Mixture make_mixture(const BranchLayout& layout, int64_t begin, int64_t end, const float* log_weights,
                     const Normalizer* normalizers, bool renormalize);

// out[i] = log-probability of column + i, for i < columns <= kTile.
template <typename scalar_t>
void mix_columns(const scalar_t* logits, const Mixture& mixture, int64_t column, int64_t columns, float* out);

// The log-probability of one column.
template <typename scalar_t>
float mix_column(const scalar_t* logits, const Mixture& mixture, int64_t column);

}  // namespace mtp_ext
