#include "branch_pass.h"

namespace mtp_ext::cuda {
namespace {

constexpr const char* kOp = "mix_branches";

Tensor mix_branches(const Tensor& branch_logits, const Tensor& branch_log_probs, const Tensor& normalizers,
                    const Tensor& indptr) {
  const BranchLayout layout = check_branch_shapes(kOp, branch_logits, branch_log_probs, indptr);
  check_normalizers(kOp, normalizers, layout, branch_logits);
  const Launch launch(kOp, branch_logits);
  const BranchPass pass(kOp, branch_log_probs, layout);
  const Tensor out = new_empty(branch_log_probs, {layout.rows, layout.vocab}, kFloat32);
  PrepareMixturesParams params = prepare_params(pass, layout, branch_log_probs, /*renormalize=*/false, launch);
  params.normalizers = normalizers.const_data_ptr<double>();
  params.normalizer_stride = normalizers.stride(0);
  check_launch(kOp, prepare_mixtures(params, launch.stream));
  mix_rows(kOp, branch_logits, pass, layout, out.mutable_data_ptr<float>(), launch);
  return out;
}

}  // namespace
}  // namespace mtp_ext::cuda

STABLE_TORCH_LIBRARY_IMPL(mtp_ext, MTP_EXT_CUDA_KEY, m) {
  m.impl("mix_branches", TORCH_BOX(&mtp_ext::cuda::mix_branches));
}
