// The k best (branch, token) pairs of a row, by w[b] + log_softmax(logits[b])[v] in nats.
//
// The first pass keeps the largest logit of each block of columns. Each of these is itself a pair, so the
// k-th best of them is a threshold that every one of the k best pairs reaches, and only blocks whose maximum
// reaches it are read again: about k of them, 512 logits each.
#pragma once

#include <cstdint>

#include "mixture.h"

namespace mtp_ext {

// `mixture` holds the row's branches with their weights as they are; `block_maxima` [branches,
// block_count(vocab)]. Writes k entries; short rows end in -inf, -1, -1.
template <typename scalar_t>
void joint_topk_row(const scalar_t* logits, const Mixture& mixture, const float* block_maxima, int64_t vocab, int64_t k,
                    float* log_probs, int64_t* branches, int64_t* tokens);

}  // namespace mtp_ext
