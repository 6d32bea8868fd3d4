#include "branch_normalizers.h"
#include "branch_pass.h"

namespace mtp_ext::cuda {
namespace {

constexpr const char* kOp = "branch_normalizers";

Tensor branch_normalizers_cuda(const Tensor& branch_logits) {
  const BranchLayout layout = check_flat_branches(kOp, branch_logits);
  const Launch launch(kOp, branch_logits);
  const int64_t chunks = sum_chunks(layout.vocab);
  const DeviceArray<ChunkSum> sums(branch_logits, layout.branches * chunks);
  const Tensor out = new_empty(branch_logits, {layout.branches, 2}, ScalarType::Double);
  dispatch_logits(kOp, branch_logits, [&](const auto* logits) {
    using scalar_t = element_of<decltype(logits)>;
    check_launch(kOp, sum_branches<scalar_t>({layout, 0, logits, nullptr, sums.data(), nullptr}, launch.stream));
  });
  check_launch(
      kOp, branch_normalizers({layout.branches, chunks, sums.data(), out.mutable_data_ptr<double>()}, launch.stream));
  return out;
}

}  // namespace
}  // namespace mtp_ext::cuda

STABLE_TORCH_LIBRARY_IMPL(mtp_ext, MTP_EXT_CUDA_KEY, m) {
  m.impl("branch_normalizers", TORCH_BOX(&mtp_ext::cuda::branch_normalizers_cuda));
}
