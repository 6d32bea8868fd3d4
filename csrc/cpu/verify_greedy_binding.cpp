// verify_greedy: from the root down, the children that are the target's most probable token. Only the logits of
// accepted nodes are read, each once.
#include "../dispatch.h"
#include "argmax.h"
#include "verify_values.h"

namespace mtp_ext {
namespace {

constexpr const char* kOp = "verify_greedy";

Accepted verify_greedy_cpu(const Tensor& tokens, const Tensor& parents, const Tensor& target) {
  check_verify_greedy(tokens, parents, target);
  check_parents(kOp, tokens, parents);
  if (target.scalar_type() == kInt64) {
    const int64_t* best = target.const_data_ptr<int64_t>();
    return verify_requests(tokens, parents, [&](int64_t b, const DraftTree& tree, const ParallelFor&) {
      return follow_best(tree, [&](int64_t node) { return std::max(best[b * target.stride(0) + node], int64_t{-1}); });
    });
  }
  const int64_t vocab = target.size(2);
  check_tokens(kOp, tokens, parents, vocab);
  std::optional<Accepted> accepted;
  dispatch_logits(kOp, target, [&](const auto* logits) {
    accepted = verify_requests(tokens, parents, [&](int64_t b, const DraftTree& tree, const ParallelFor& parallel) {
      return follow_best(tree, [&](int64_t node) {
        return argmax(logits + b * target.stride(0) + node * target.stride(1), vocab, parallel);
      });
    });
  });
  return *accepted;
}

}  // namespace
}  // namespace mtp_ext

STABLE_TORCH_LIBRARY_IMPL(mtp_ext, CPU, m) { m.impl("verify_greedy", TORCH_BOX(&mtp_ext::verify_greedy_cpu)); }
