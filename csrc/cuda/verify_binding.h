// What the bindings of verification share on a GPU.
#pragma once

#include "../verify_checks.h"
#include "accepted.h"
#include "launch.h"
#include "vocab_check.h"

namespace mtp_ext {

// The results, still to be written.
inline Accepted new_accepted(const Tensor& tokens) {
  const int64_t batch = tokens.size(0);
  return {new_empty(tokens, {batch, tokens.size(1)}, kInt64), new_empty(tokens, {batch}, kInt64),
          new_empty(tokens, {batch}, kInt64)};
}

inline DraftBatch to_draft_batch(const Tensor& tokens, const Tensor& parents, int64_t vocab, const Accepted& accepted,
                                 const Status& status) {
  DraftBatch drafts{};
  drafts.batch = tokens.size(0);
  drafts.nodes = tokens.size(1);
  drafts.token_stride = tokens.stride(0);
  drafts.parent_stride = parents.stride(0);
  drafts.tokens = tokens.const_data_ptr<int64_t>();
  drafts.parents = parents.const_data_ptr<int64_t>();
  drafts.vocab = vocab;
  drafts.path = std::get<0>(accepted).mutable_data_ptr<int64_t>();
  drafts.lengths = std::get<1>(accepted).mutable_data_ptr<int64_t>();
  drafts.next_tokens = std::get<2>(accepted).mutable_data_ptr<int64_t>();
  drafts.status = status;
  return drafts;
}

}  // namespace mtp_ext
