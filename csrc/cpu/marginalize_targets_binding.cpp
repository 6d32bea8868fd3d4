#include "../dispatch.h"
#include "branch_pass.h"

namespace mtp_ext {
namespace {

constexpr const char* kOp = "marginalize_targets";

void check_targets(const Tensor& targets, int64_t vocab) {
  const int64_t* data = targets.const_data_ptr<int64_t>();
  for (int64_t row = 0; row < targets.size(0); ++row) {
    if (data[row] < 0 || data[row] >= vocab) {
      refuse(kOp, "targets must be from 0 to ", vocab - 1, ", got targets[", row, "]=", data[row]);
    }
  }
}

Tensor marginalize_targets_cpu(const Tensor& branch_logits, const Tensor& branch_log_probs, const Tensor& targets,
                               const std::optional<Tensor>& indptr, bool renormalize) {
  const BranchBatch batch = check_branches(kOp, branch_logits, branch_log_probs, indptr);
  const int64_t rows = batch.layout.rows;
  check_tensor(kOp, "targets", targets, {{"rows", rows}}, {kInt64}, branch_logits);
  check_targets(targets, batch.layout.vocab);
  const Tensor out = new_empty(branch_log_probs, {rows}, kFloat32);
  float* data = out.mutable_data_ptr<float>();
  const int64_t* columns = targets.const_data_ptr<int64_t>();
  dispatch_logits(kOp, branch_logits, [&](const auto* logits) {
    for_each_pass(logits, batch, renormalize, false, [&](const BranchPass& pass) {
      for (int64_t row = pass.row_begin; row < pass.row_end; ++row) {
        data[row] = mix_column(logits, pass.mixtures[row - pass.row_begin], columns[row]);
      }
    });
  });
  return out;
}

}  // namespace
}  // namespace mtp_ext

STABLE_TORCH_LIBRARY_IMPL(mtp_ext, CPU, m) {
  m.impl("marginalize_targets", TORCH_BOX(&mtp_ext::marginalize_targets_cpu));
}
