// The k best columns of each row's mixture (mixture.h), without mixing most of them. In three steps:
//   bound     the mixture of the branches' largest logits in a block of 512 columns bounds every column of it from
//   above;
//             the largest of its terms bounds the block's best column from below, so that the k-th largest of these
//             lower bounds is a threshold that k columns reach
//   mix       (mixture.h) the blocks whose upper bound reaches the threshold
//   select    the k best of what was mixed, ties to the lower column
// Values are those of `mix`, bit for bit. Torch-free.
#pragma once

#include "mixture.h"

namespace mtp_ext::cuda {

// Columns that are sorted in shared memory; more of them need the workspace.
inline constexpr int64_t kTopInShared = 4096;

// How many columns are sorted in a row: k as a power of two.
constexpr int64_t topk_capacity(int64_t k) {
  int64_t capacity = 2;
  while (capacity < k) capacity *= 2;
  return capacity;
}

struct BoundBlocksParams {
  const float* block_maxima;  // [total branches, blocks], nats
  const MixtureTerm* terms;
  const MixtureRow* rows;
  int64_t row_count;
  int64_t blocks;
  int64_t k;
  float* lower;       // [rows, blocks], nats, workspace
  float* upper;       // [rows, blocks], out
  float* thresholds;  // [rows], out
};

cudaError_t bound_blocks(const BoundBlocksParams& params, cudaStream_t stream);

struct SelectColumnsParams {
  const float* mixed;       // [rows, vocab], where the upper bound reaches the threshold
  const float* upper;       // [rows, blocks]
  const float* thresholds;  // [rows]
  const MixtureRow* rows;
  int64_t row_count;
  int64_t vocab;
  int64_t k;
  uint64_t* workspace;  // [rows, topk_capacity(k)] where that is over kTopInShared
  float* log_probs;     // [rows, k], out; short rows end in -inf, broken ones are NaN
  int64_t* columns;     // [rows, k], out; -1 there
};

cudaError_t select_columns(const SelectColumnsParams& params, cudaStream_t stream);

}  // namespace mtp_ext::cuda
