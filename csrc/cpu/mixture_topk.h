// The k best columns of a mixture, without mixing most of them.
//
// The mixture of the branches' largest logits in a block of columns bounds every column of the block from
// above, and since the largest probabilities of the blocks add up to at most one, at most 1 / p blocks can
// hold a column of probability p. So the first pass keeps those maxima, and the second one mixes only the
// blocks whose bound reaches the k best so far, best bound first. Values are those of mix_columns, bit for
// bit.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "mixture.h"
#include "top_candidates.h"

namespace mtp_ext {

class MixtureTopK {
 public:
  // `block_maxima` [branches, block_count(vocab)] of the row that the mixture is of.
  MixtureTopK(const Mixture& mixture, const float* block_maxima, int64_t vocab, int64_t k);

  // The shares of a row's blocks, the unit of parallel work: k of them, since the k best may all lie in blocks of
  // their own, and fewer blocks than that give no useful threshold.
  static int64_t share_count(int64_t k) { return std::min<int64_t>(k, 16); }

  // Two rounds, between which the shares agree on a threshold: in the first every share mixes its block of
  // best bound, in the second all its blocks that can still hold one of the k best. Shares of a round may run
  // in any order.
  template <typename scalar_t>
  void mix_first(const scalar_t* logits, int64_t share);
  void agree();
  template <typename scalar_t>
  void mix_rest(const scalar_t* logits, int64_t share);

  // Writes the k best, short rows ending in -inf and -1.
  void write(float* log_probs, int64_t* tokens);

 private:
  struct Block {
    float bound;  // nats
    int64_t index;
  };

  static bool better(const Block& a, const Block& b) {
    return a.bound > b.bound || (a.bound == b.bound && a.index < b.index);
  }

  template <typename scalar_t>
  void mix_block(const scalar_t* logits, const Block& block, TopCandidates& best) const;

  const Mixture& mixture_;
  int64_t vocab_;
  int64_t k_;
  std::vector<Block>
      blocks_;  // the best ones first, the rest once the shares agree; i belongs to share i % shares_.size()
  std::vector<TopCandidates> shares_;
};

}  // namespace mtp_ext
