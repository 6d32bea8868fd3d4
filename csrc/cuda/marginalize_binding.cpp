#include "branch_pass.h"

namespace mtp_ext::cuda {
namespace {

constexpr const char* kOp = "marginalize";

Tensor marginalize(const Tensor& branch_logits, const Tensor& branch_log_probs, const std::optional<Tensor>& indptr,
                   bool renormalize) {
  const BranchLayout layout = check_branch_shapes(kOp, branch_logits, branch_log_probs, indptr);
  const Launch launch(kOp, branch_logits);
  const Tensor out = new_empty(branch_log_probs, {layout.rows, layout.vocab}, kFloat32);
  const BranchPass pass = read_branches(kOp, branch_logits, branch_log_probs, layout, renormalize, launch);
  mix_rows(kOp, branch_logits, pass, layout, out.mutable_data_ptr<float>(), launch);
  return out;
}

}  // namespace
}  // namespace mtp_ext::cuda

STABLE_TORCH_LIBRARY_IMPL(mtp_ext, MTP_EXT_CUDA_KEY, m) {
  m.impl("marginalize", TORCH_BOX(&mtp_ext::cuda::marginalize));
}
