#include "branch_pass.h"

namespace mtp_ext::cuda {
namespace {

constexpr const char* kOp = "marginalize";

Tensor marginalize(const Tensor& branch_logits, const Tensor& branch_log_probs, const std::optional<Tensor>& indptr,
                   bool renormalize) {
  const BranchLayout layout = check_branch_shapes(kOp, branch_logits, branch_log_probs, indptr);
  const Launch launch(kOp, branch_logits);
  const Tensor out = new_empty(branch_log_probs, {layout.rows, layout.vocab}, kFloat32);
  float* data = out.mutable_data_ptr<float>();
  dispatch_logits(kOp, branch_logits, [&](const auto* logits) {
    const BranchPass pass = read_branches(kOp, logits, branch_log_probs, layout, renormalize, launch);
    using scalar_t = std::remove_const_t<std::remove_pointer_t<decltype(logits)>>;
    check_launch(kOp, mix<scalar_t>({logits, pass.terms.data(), pass.rows.data(), layout.rows, pass.branches_per_row,
                                     layout.vocab, data},
                                    launch.stream));
  });
  return out;
}

}  // namespace
}  // namespace mtp_ext::cuda

STABLE_TORCH_LIBRARY_IMPL(mtp_ext, MTP_EXT_CUDA_KEY, m) {
  m.impl("marginalize", TORCH_BOX(&mtp_ext::cuda::marginalize));
}
