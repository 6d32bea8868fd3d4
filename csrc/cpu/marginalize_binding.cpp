#include "../dispatch.h"
#include "branch_pass.h"

namespace mtp_ext {
namespace {

Tensor marginalize_cpu(const Tensor& branch_logits, const Tensor& branch_log_probs, const std::optional<Tensor>& indptr,
                       bool renormalize) {
  const BranchBatch batch = check_branches("marginalize", branch_logits, branch_log_probs, indptr);
  const int64_t vocab = batch.layout.vocab;
  const Tensor out = new_empty(branch_log_probs, {batch.layout.rows, vocab}, kFloat32);
  float* data = out.mutable_data_ptr<float>();
  dispatch_logits("marginalize", branch_logits, [&](const auto* logits) {
    for_each_pass(logits, batch, renormalize, false, [&](const BranchPass& pass) {
      mix_rows(logits, pass.mixtures, pass.branches_per_row(), vocab, data + pass.row_begin * vocab);
    });
  });
  return out;
}

}  // namespace
}  // namespace mtp_ext

STABLE_TORCH_LIBRARY_IMPL(mtp_ext, CPU, m) { m.impl("marginalize", TORCH_BOX(&mtp_ext::marginalize_cpu)); }
