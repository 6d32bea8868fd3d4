// The k best columns of a mixture, without mixing most of them.
//
// The mixture of the branches' largest logits in a block of columns bounds every column of the block from above, and
// since the largest probabilities of the blocks add up to at most one, at most 1 / p blocks can hold a column of
// probability p. So the first pass keeps those maxima, and the second one mixes only the blocks whose bound reaches
// the k best so far, best bound first. Values are those of mix_columns, bit for bit.
#pragma once

#include <cstdint>
#include <vector>

#include "mixture.h"
#include "top_candidates.h"

namespace mtp_ext {

class MixtureTopK {
 public:
  static constexpr int64_t kShares = 8;  // of a row's blocks: the unit of parallel work

  // `block_maxima` [branches, block_count(vocab)] of the row that the mixture is of.
  MixtureTopK(const Mixture& mixture, const float* block_maxima, int64_t vocab, int64_t k);

  // Mixes the blocks with the best bounds until there are k candidates.
  template <typename scalar_t>
  void start(const scalar_t* logits);

  // Mixes every block of a share that can still hold one of the k best; shares may run in any order.
  template <typename scalar_t>
  void run_share(const scalar_t* logits, int64_t share);

  // Writes the k best, short rows ending in -inf and -1.
  void write(float* log_probs, int64_t* tokens);

 private:
  struct Block {
    float bound;  // nats
    int64_t index;
  };

  template <typename scalar_t>
  void mix_block(const scalar_t* logits, const Block& block, TopCandidates& best) const;

  const Mixture& mixture_;
  int64_t vocab_;
  int64_t k_;
  std::vector<Block> blocks_;  // best bound first
  int64_t started_ = 0;        // blocks that start() has mixed
  TopCandidates best_;
  std::vector<TopCandidates> shares_;
};

}  // namespace mtp_ext
