// What both back ends check of a marginalization op's branches: shapes, dtypes and devices. Values are checked where
// they lie, on a CPU in its binding, on CUDA in the kernel.
#pragma once

#include <optional>

#include "branch_layout.h"
#include "checks.h"

namespace mtp_ext {

// The layout of dense branches, [rows, branches, vocab] with weights [rows, branches], or of ragged ones, [m, vocab]
// with [m] and indptr [rows + 1].
inline BranchLayout check_branch_shapes(const char* op, const Tensor& branch_logits, const Tensor& branch_log_probs,
                                        const std::optional<Tensor>& indptr) {
  BranchLayout layout;
  const auto dtypes = {ScalarType::Float, ScalarType::BFloat16, ScalarType::Half};
  if (indptr) {
    check_tensor(op, "branch_logits", branch_logits, {{"m"}, {"vocab"}}, dtypes, branch_logits);
    layout.branches = branch_logits.size(0);
    layout.vocab = branch_logits.size(1);
    layout.branch_stride = branch_logits.stride(0);
    check_tensor(op, "branch_log_probs", branch_log_probs, {{"m", layout.branches}}, {kFloat32}, branch_logits);
    check_tensor(op, "indptr", *indptr, {{"rows + 1"}}, {kInt64}, branch_logits);
    if (indptr->size(0) == 0) refuse(op, "indptr must be [rows + 1], got [0]: even no rows need a 0");
    layout.rows = indptr->size(0) - 1;
    layout.indptr = indptr->const_data_ptr<int64_t>();
  } else {
    check_tensor(op, "branch_logits", branch_logits, {{"rows"}, {"branches"}, {"vocab"}}, dtypes, branch_logits);
    layout.rows = branch_logits.size(0);
    layout.branches = branch_logits.size(1);
    layout.vocab = branch_logits.size(2);
    layout.row_stride = branch_logits.stride(0);
    layout.branch_stride = branch_logits.stride(1);
    check_tensor(op, "branch_log_probs", branch_log_probs, {{"rows", layout.rows}, {"branches", layout.branches}},
                 {kFloat32}, branch_logits);
  }
  return layout;
}

// Branches [m, vocab] that belong to no row, as those of one.
inline BranchLayout check_flat_branches(const char* op, const Tensor& branch_logits) {
  const auto dtypes = {ScalarType::Float, ScalarType::BFloat16, ScalarType::Half};
  check_tensor(op, "branch_logits", branch_logits, {{"m"}, {"vocab"}}, dtypes, branch_logits);
  BranchLayout layout;
  layout.rows = 1;
  layout.branches = branch_logits.size(0);
  layout.vocab = branch_logits.size(1);
  layout.branch_stride = branch_logits.stride(0);
  return layout;
}

// A center and a rest for each branch, as `branch_normalizers` gives them.
inline void check_normalizers(const char* op, const Tensor& normalizers, const BranchLayout& layout,
                              const Tensor& branch_logits) {
  check_tensor(op, "normalizers", normalizers, {{"m", layout.branches}, {"parts", 2}}, {ScalarType::Double},
               branch_logits);
}

}  // namespace mtp_ext
