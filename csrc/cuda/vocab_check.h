// The one limit that rows of logits have on a GPU.
#pragma once

#include "../checks.h"
#include "largest_vocab.h"

namespace mtp_ext {

inline void check_cuda_vocab(const char* op, int64_t vocab) {
  if (vocab > kLargestVocab) refuse(op, "the vocabulary must be at most ", kLargestVocab, " on cuda, got ", vocab);
}

}  // namespace mtp_ext
