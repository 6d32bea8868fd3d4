#include "branch_pass.h"

#include "../branch_checks.h"

namespace mtp_ext {
namespace {

void check_indptr(const char* op, const Tensor& indptr, int64_t branches) {
  const int64_t* data = indptr.const_data_ptr<int64_t>();
  const int64_t last = indptr.size(0) - 1;
  if (data[0] != 0) refuse(op, "indptr must start at 0, got indptr[0]=", data[0]);
  for (int64_t i = 0; i < last; ++i) {
    if (data[i + 1] < data[i]) {
      refuse(op, "indptr must ascend, got indptr[", i, "]=", data[i], " before indptr[", i + 1, "]=", data[i + 1]);
    }
  }
  if (data[last] != branches) {
    refuse(op, "indptr must end at the number of branches, ", branches, ", got indptr[", last, "]=", data[last]);
  }
}

std::vector<float> copy_weights(const Tensor& log_probs) {  // [branches] or [rows, branches]
  const bool dense = log_probs.dim() == 2;
  const int64_t rows = dense ? log_probs.size(0) : 1;
  const int64_t branches = log_probs.size(log_probs.dim() - 1);
  const int64_t stride = dense ? log_probs.stride(0) : 0;
  const float* data = log_probs.const_data_ptr<float>();
  std::vector<float> weights;
  weights.reserve(rows * branches);
  for (int64_t row = 0; row < rows; ++row) {
    weights.insert(weights.end(), data + row * stride, data + row * stride + branches);
  }
  return weights;
}

}  // namespace

BranchBatch check_branches(const char* op, const Tensor& branch_logits, const Tensor& branch_log_probs,
                           const std::optional<Tensor>& indptr) {
  const BranchLayout layout = check_branch_shapes(op, branch_logits, branch_log_probs, indptr);
  if (indptr) check_indptr(op, *indptr, layout.branches);
  return {layout, copy_weights(branch_log_probs)};
}

}  // namespace mtp_ext
