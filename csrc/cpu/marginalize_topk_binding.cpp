#include <tuple>

#include "../dispatch.h"
#include "branch_pass.h"
#include "mixture_topk.h"

namespace mtp_ext {
namespace {

constexpr const char* kOp = "marginalize_topk";

std::tuple<Tensor, Tensor> marginalize_topk_cpu(const Tensor& branch_logits, const Tensor& branch_log_probs,
                                                const std::optional<Tensor>& indptr, int64_t k, bool renormalize) {
  const BranchBatch batch = check_branches(kOp, branch_logits, branch_log_probs, indptr);
  const BranchLayout& layout = batch.layout;
  check_range(kOp, "k", k, 1, layout.vocab);
  const Tensor log_probs = new_empty(branch_log_probs, {layout.rows, k}, kFloat32);
  const Tensor tokens = new_empty(branch_log_probs, {layout.rows, k}, kInt64);
  float* log_prob_data = log_probs.mutable_data_ptr<float>();
  int64_t* token_data = tokens.mutable_data_ptr<int64_t>();
  dispatch_logits(kOp, branch_logits, [&](const auto* logits) {
    for_each_pass(logits, batch, renormalize, true, [&](const BranchPass& pass) {
      std::vector<MixtureTopK> rows;
      for (int64_t row = 0; row < pass.rows(); ++row) {
        rows.emplace_back(pass.mixtures[row], pass.row_maxima(layout, row), layout.vocab, k);
      }
      const int64_t share_logits = pass.branches_per_row() * kBlock;
      const int64_t shares = MixtureTopK::share_count(k);
      const int64_t items = pass.rows() * shares;
      parallel_items(items, share_logits, [&](int64_t i) { rows[i / shares].mix_first(logits, i % shares); });
      for (MixtureTopK& row : rows) row.agree();
      parallel_items(items, share_logits, [&](int64_t i) { rows[i / shares].mix_rest(logits, i % shares); });
      for (int64_t row = 0; row < pass.rows(); ++row) {
        rows[row].write(log_prob_data + (pass.row_begin + row) * k, token_data + (pass.row_begin + row) * k);
      }
    });
  });
  return {log_probs, tokens};
}

}  // namespace
}  // namespace mtp_ext

STABLE_TORCH_LIBRARY_IMPL(mtp_ext, CPU, m) { m.impl("marginalize_topk", TORCH_BOX(&mtp_ext::marginalize_topk_cpu)); }
