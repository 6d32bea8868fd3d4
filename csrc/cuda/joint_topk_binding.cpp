#include <tuple>

#include "branch_pass.h"
#include "joint_topk.h"
#include "vocab_check.h"

namespace mtp_ext::cuda {
namespace {

constexpr const char* kOp = "joint_topk";
constexpr int64_t kLargestK = 1 << 20;
constexpr int64_t kMostPairs = 0xffffffff;  // of a row: a pair is a 32-bit number

std::tuple<Tensor, Tensor, Tensor> joint_topk_cuda(const Tensor& branch_logits, const Tensor& branch_log_probs,
                                                   const std::optional<Tensor>& indptr, int64_t k) {
  const BranchLayout layout = check_branch_shapes(kOp, branch_logits, branch_log_probs, indptr);
  check_range(kOp, "k", k, 1, kLargestK);
  check_cuda_vocab(kOp, layout.vocab);
  const int64_t pairs = layout.branches * layout.vocab;  // of a row; where ragged, of all rows: one may have them all
  if (pairs > kMostPairs) {
    refuse(kOp, indptr ? "m" : "branches", " * vocab must be at most ", kMostPairs, " on cuda, got ", pairs);
  }
  const Launch launch(kOp, branch_logits);
  const int64_t blocks = layout.total() * sum_blocks(layout.vocab);
  const int64_t capacity = winner_capacity(pairs, k);
  const DeviceArray<float> block_maxima(branch_log_probs, blocks);
  const DeviceArray<uint32_t> survivors(branch_log_probs, blocks);
  const DeviceArray<uint64_t> workspace(branch_log_probs, layout.rows * winner_workspace(capacity));
  const BranchPass pass =
      read_branches(kOp, branch_logits, branch_log_probs, layout, false, launch, block_maxima.data());
  const Tensor log_probs = new_empty(branch_log_probs, {layout.rows, k}, kFloat32);
  const Tensor branches = new_empty(branch_log_probs, {layout.rows, k}, kInt64);
  const Tensor tokens = new_empty(branch_log_probs, {layout.rows, k}, kInt64);
  dispatch_logits(kOp, branch_logits, [&](const auto* logits) {
    JointTopKParams<element_of<decltype(logits)>> params{};
    params.row_count = layout.rows;
    params.branch_stride = layout.branch_stride;
    params.vocab = layout.vocab;
    params.k = k;
    params.capacity = capacity;
    params.logits = logits;
    params.terms = pass.terms.data();
    params.rows = pass.rows.data();
    params.block_maxima = block_maxima.data();
    params.survivors = survivors.data();
    params.workspace = workspace.data();
    params.log_probs = log_probs.mutable_data_ptr<float>();
    params.branches = branches.mutable_data_ptr<int64_t>();
    params.tokens = tokens.mutable_data_ptr<int64_t>();
    check_launch(kOp, joint_topk(params, launch.stream));
  });
  return {log_probs, branches, tokens};
}

}  // namespace
}  // namespace mtp_ext::cuda

STABLE_TORCH_LIBRARY_IMPL(mtp_ext, MTP_EXT_CUDA_KEY, m) {
  m.impl("joint_topk", TORCH_BOX(&mtp_ext::cuda::joint_topk_cuda));
}
