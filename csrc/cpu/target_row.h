// The target's distribution after one node, by its logits, temperature, top-k, top-p and min-p. A row is read once for
// its normaliser; of a truncated one only the blocks of its most probable tokens are looked at again, without a full
// sort. Masses are written where a draft has been refused or a token is to be sampled, into memory of their own.
#pragma once

#include <optional>

#include "token_masses.h"

namespace mtp_ext {

struct TargetLimits {
  float scale;    // octaves in a logit: log2(e) / temperature
  int64_t top_k;  // the vocabulary or more: no limit
  double top_p;   // 1: no limit
  double min_p;   // 0: no limit

  bool truncate(int64_t vocab) const { return top_k < vocab || top_p < 1 || min_p > 0; }
};

template <typename scalar_t>
class TargetRow {
 public:
  // logits [vocab]
  TargetRow(const scalar_t* logits, int64_t vocab, const TargetLimits& limits, const ParallelFor& parallel);

  bool broken() const { return normalizer_.octaves != normalizer_.octaves; }  // NaN, +inf or nothing but -inf
  double probability(int64_t token) const;
  TokenMasses& masses();

 private:
  const scalar_t* logits_;
  int64_t vocab_;
  float scale_;
  const ParallelFor* parallel_;
  Normalizer normalizer_;
  std::optional<TokenMasses> masses_;
};

}  // namespace mtp_ext
