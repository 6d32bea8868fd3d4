#include "../branch_checks.h"
#include "../dispatch.h"
#include "branch_pass.h"

namespace mtp_ext {
namespace {

constexpr const char* kOp = "mix_branches";

std::vector<Normalizer> read_normalizers(const Tensor& normalizers) {  // [m, 2]: the center and the rest, in nats
  const double* data = normalizers.const_data_ptr<double>();
  std::vector<Normalizer> result(normalizers.size(0));
  for (size_t i = 0; i < result.size(); ++i) {
    const double* pair = data + static_cast<int64_t>(i) * normalizers.stride(0);
    const bool nothing = pair[1] == -static_cast<double>(kInfinity);  // all logits are -inf: no distribution
    result[i] = {static_cast<float>(pair[0]), nothing ? kNaN : pair[1] * kLog2E};
  }
  return result;
}

Tensor mix_branches_cpu(const Tensor& branch_logits, const Tensor& branch_log_probs, const Tensor& normalizers,
                        const Tensor& indptr) {
  const BranchBatch batch = check_branches(kOp, branch_logits, branch_log_probs, indptr);
  const BranchLayout& layout = batch.layout;
  check_normalizers(kOp, normalizers, layout, branch_logits);
  const std::vector<Normalizer> known = read_normalizers(normalizers);
  std::vector<Mixture> mixtures;
  for (int64_t row = 0; row < layout.rows; ++row) {
    const int64_t begin = layout.begin(row);
    mixtures.push_back(make_mixture(layout, begin, layout.end(row), batch.log_weights.data() + begin,
                                    known.data() + begin, /*renormalize=*/false));
  }
  const Tensor out = new_empty(branch_log_probs, {layout.rows, layout.vocab}, kFloat32);
  float* data = out.mutable_data_ptr<float>();
  dispatch_logits(kOp, branch_logits, [&](const auto* logits) {
    const int64_t branches_per_row = ceil_div(layout.branches, std::max<int64_t>(1, layout.rows));
    mix_rows(logits, mixtures, branches_per_row, layout.vocab, data);
  });
  return out;
}

}  // namespace
}  // namespace mtp_ext

STABLE_TORCH_LIBRARY_IMPL(mtp_ext, CPU, m) { m.impl("mix_branches", TORCH_BOX(&mtp_ext::mix_branches_cpu)); }
