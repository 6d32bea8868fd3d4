// What may follow a node, and how likely: masses of tokens, which need not sum to one. Of all tokens of the vocabulary,
// or of a few, where the others have none. Sums are taken over blocks in float32 and over the blocks in double, so that
// a result does not depend on the threads.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "normalizer.h"
#include "parallel_for.h"

namespace mtp_ext {

class TokenMasses {
 public:
  // mass[v] = 2^(scale * logits[v] - normalizer), nearly; all of the vocabulary.
  template <typename scalar_t>
  TokenMasses(const scalar_t* logits, int64_t vocab, float scale, const Normalizer& normalizer,
              const ParallelFor& parallel);

  // Of these tokens, in ascending order.
  TokenMasses(std::vector<int64_t> tokens, const std::vector<float>& masses, const ParallelFor& parallel);

  double total() const { return total_; }  // NaN where a mass is
  double share(int64_t token) const;       // mass / total
  void remove(int64_t token);              // its mass becomes 0
  double entropy() const;                  // of the shares, nats
  int64_t sample(double uniform) const;    // the first token up to which more than that share lies, or -1

  // The masses become max(rate * share - draft_scale * mass in draft, 0), with their sum as the total. `draft` is of
  // all of the vocabulary.
  void subtract(double rate, const TokenMasses& draft, double draft_scale);

 private:
  int64_t place(int64_t token) const;  // in masses_, or -1
  template <typename Fill>
  void fill(const Fill& fill);  // fill(begin, end) writes these masses and returns their sum
  void add_up();

  std::vector<int64_t> tokens_;  // ascending; empty: all
  int64_t size_;
  std::unique_ptr<float[]> masses_;  // [size]
  const ParallelFor* parallel_;
  double total_ = 0;
  double exact_total_ = 0;  // when it was last added up, not subtracted from
};

}  // namespace mtp_ext
