#include <tuple>

#include "../dispatch.h"
#include "branch_pass.h"
#include "joint_topk.h"

namespace mtp_ext {
namespace {

constexpr const char* kOp = "joint_topk";
constexpr int64_t kLargestK = 1 << 20;

std::tuple<Tensor, Tensor, Tensor> joint_topk_cpu(const Tensor& branch_logits, const Tensor& branch_log_probs,
                                                  const std::optional<Tensor>& indptr, int64_t k) {
  const BranchBatch batch = check_branches(kOp, branch_logits, branch_log_probs, indptr);
  const BranchLayout& layout = batch.layout;
  check_range(kOp, "k", k, 1, kLargestK);
  const Tensor log_probs = new_empty(branch_log_probs, {layout.rows, k}, kFloat32);
  const Tensor branches = new_empty(branch_log_probs, {layout.rows, k}, kInt64);
  const Tensor tokens = new_empty(branch_log_probs, {layout.rows, k}, kInt64);
  float* log_prob_data = log_probs.mutable_data_ptr<float>();
  int64_t* branch_data = branches.mutable_data_ptr<int64_t>();
  int64_t* token_data = tokens.mutable_data_ptr<int64_t>();
  dispatch_logits(kOp, branch_logits, [&](const auto* logits) {
    for_each_pass(logits, batch, false, true, [&](const BranchPass& pass) {
      parallel_items(pass.rows(), k * kBlock, [&](int64_t i) {
        const int64_t out = (pass.row_begin + i) * k;
        joint_topk_row(logits, pass.mixtures[i], pass.row_maxima(layout, i), layout.vocab, k, log_prob_data + out,
                       branch_data + out, token_data + out);
      });
    });
  });
  return {log_probs, branches, tokens};
}

}  // namespace
}  // namespace mtp_ext

STABLE_TORCH_LIBRARY_IMPL(mtp_ext, CPU, m) { m.impl("joint_topk", TORCH_BOX(&mtp_ext::joint_topk_cpu)); }
