// What the bindings of verification share on a CPU: the values that only tensors know, and the loop over the requests.
// mtp_ext/ops/verify_checks.py says the same sentences.
#pragma once

#include "../verify_checks.h"
#include "draft_tree.h"
#include "parallel.h"
#include "parallel_for.h"

namespace mtp_ext {

// Parents come before their children, padding at the end. tokens, parents int64 [batch, nodes].
void check_parents(const char* op, const Tensor& tokens, const Tensor& parents);

// The tokens of all nodes but the padding are in the vocabulary.
void check_tokens(const char* op, const Tensor& tokens, const Tensor& parents, int64_t vocab);

// Calls verify(request, tree, parallel) -> Verdict for every request. Several share the threads; one has them all.
template <typename Verify>
Accepted verify_requests(const Tensor& tokens, const Tensor& parents, const Verify& verify) {
  const int64_t batch = tokens.size(0);
  const int64_t nodes = tokens.size(1);
  const Tensor paths = new_empty(tokens, {batch, nodes}, kInt64);
  const Tensor lengths = new_empty(tokens, {batch}, kInt64);
  const Tensor next_tokens = new_empty(tokens, {batch}, kInt64);
  const int64_t* token_data = tokens.const_data_ptr<int64_t>();
  const int64_t* parent_data = parents.const_data_ptr<int64_t>();
  int64_t* path_data = paths.mutable_data_ptr<int64_t>();
  int64_t* length_data = lengths.mutable_data_ptr<int64_t>();
  int64_t* next_data = next_tokens.mutable_data_ptr<int64_t>();
  const ParallelFor parallel = [](int64_t items, int64_t logits_per_item, const std::function<void(int64_t)>& body) {
    parallel_items(items, logits_per_item, body);
  };
  const auto run = [&](int64_t b) {
    const DraftTree tree(token_data + b * tokens.stride(0), parent_data + b * parents.stride(0), nodes);
    const Verdict verdict = verify(b, tree, parallel);
    const auto length = static_cast<int64_t>(verdict.path.size());
    std::copy_n(verdict.path.data(), length, path_data + b * nodes);
    std::fill_n(path_data + b * nodes + length, nodes - length, int64_t{-1});
    length_data[b] = length;
    next_data[b] = verdict.next_token;
  };
  if (batch == 1) {
    run(0);
  } else {
    parallel_items(batch, kGrain, run);  // a request is worth a thread
  }
  return {paths, lengths, next_tokens};
}

}  // namespace mtp_ext
