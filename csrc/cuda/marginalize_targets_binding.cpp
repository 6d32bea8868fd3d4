#include "branch_pass.h"
#include "mix_targets.h"

namespace mtp_ext::cuda {
namespace {

constexpr const char* kOp = "marginalize_targets";

Tensor marginalize_targets(const Tensor& branch_logits, const Tensor& branch_log_probs, const Tensor& targets,
                           const std::optional<Tensor>& indptr, bool renormalize) {
  const BranchLayout layout = check_branch_shapes(kOp, branch_logits, branch_log_probs, indptr);
  check_tensor(kOp, "targets", targets, {{"rows", layout.rows}}, {kInt64}, branch_logits);
  const Launch launch(kOp, branch_logits);
  const Tensor out = new_empty(branch_log_probs, {layout.rows}, kFloat32);
  const BranchPass pass = read_branches(kOp, branch_logits, branch_log_probs, layout, renormalize, launch);
  dispatch_logits(kOp, branch_logits, [&](const auto* logits) {
    using scalar_t = element_of<decltype(logits)>;
    const MixTargetsParams<scalar_t> params{
        logits,       pass.terms.data(),    pass.rows.data(), targets.const_data_ptr<int64_t>(),
        layout.rows,  layout.branch_stride, layout.vocab,     out.mutable_data_ptr<float>(),
        launch.status};
    check_launch(kOp, mix_targets(params, launch.stream));
  });
  return out;
}

}  // namespace
}  // namespace mtp_ext::cuda

STABLE_TORCH_LIBRARY_IMPL(mtp_ext, MTP_EXT_CUDA_KEY, m) {
  m.impl("marginalize_targets", TORCH_BOX(&mtp_ext::cuda::marginalize_targets));
}
