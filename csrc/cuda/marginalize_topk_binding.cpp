#include <tuple>

#include "branch_pass.h"
#include "mixture_topk.h"
#include "vocab_check.h"

namespace mtp_ext::cuda {
namespace {

constexpr const char* kOp = "marginalize_topk";

std::tuple<Tensor, Tensor> marginalize_topk(const Tensor& branch_logits, const Tensor& branch_log_probs,
                                            const std::optional<Tensor>& indptr, int64_t k, bool renormalize) {
  const BranchLayout layout = check_branch_shapes(kOp, branch_logits, branch_log_probs, indptr);
  check_range(kOp, "k", k, 1, layout.vocab);
  check_cuda_vocab(kOp, layout.vocab);
  const Launch launch(kOp, branch_logits);
  const Tensor log_probs = new_empty(branch_log_probs, {layout.rows, k}, kFloat32);
  const Tensor tokens = new_empty(branch_log_probs, {layout.rows, k}, kInt64);
  const int64_t rows = layout.rows, blocks = sum_blocks(layout.vocab), capacity = topk_capacity(k);
  const DeviceArray<float> maxima(log_probs, layout.total() * blocks);
  const DeviceArray<float> lower(log_probs, rows * blocks), upper(log_probs, rows * blocks),
      thresholds(log_probs, rows);
  const DeviceArray<float> mixed(log_probs, rows * layout.vocab);
  const DeviceArray<uint64_t> workspace(log_probs, capacity > kTopInShared ? rows * capacity : 0);

  const BranchPass pass =
      read_branches(kOp, branch_logits, branch_log_probs, layout, renormalize, launch, maxima.data());
  check_launch(kOp, bound_blocks({maxima.data(), pass.terms.data(), pass.rows.data(), rows, blocks, k, lower.data(),
                                  upper.data(), thresholds.data()},
                                 launch.stream));
  mix_rows(kOp, branch_logits, pass, layout, mixed.data(), launch, upper.data(), thresholds.data());
  check_launch(
      kOp, select_columns({mixed.data(), upper.data(), thresholds.data(), pass.rows.data(), rows, layout.vocab, k,
                           workspace.data(), log_probs.mutable_data_ptr<float>(), tokens.mutable_data_ptr<int64_t>()},
                          launch.stream));
  return {log_probs, tokens};
}

}  // namespace
}  // namespace mtp_ext::cuda

STABLE_TORCH_LIBRARY_IMPL(mtp_ext, MTP_EXT_CUDA_KEY, m) {
  m.impl("marginalize_topk", TORCH_BOX(&mtp_ext::cuda::marginalize_topk));
}
