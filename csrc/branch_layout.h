// Where the branches of a batch lie in memory, dense or ragged. Torch-free; shared by the marginalization
// kernels.
//   dense:  logits [rows, branches, vocab], weights [rows, branches]
//   ragged: logits [m, vocab], weights [m]; row r owns branches indptr[r] to indptr[r + 1]
// A branch is named by its flat number: row * branches + branch, or its place among the m.
#pragma once

#include <cstdint>

#include "number_types.h"

namespace mtp_ext {

struct BranchLayout {
  int64_t rows = 0;
  int64_t branches = 0;  // in a row (dense), or in all (ragged)
  int64_t vocab = 0;
  int64_t row_stride = 0;           // of the logits, in elements; unused when ragged
  int64_t branch_stride = 0;        // of the logits, in elements
  const int64_t* indptr = nullptr;  // [rows + 1] where ragged

  constexpr int64_t total() const { return indptr ? branches : rows * branches; }
  constexpr int64_t begin(int64_t row) const { return indptr ? indptr[row] : row * branches; }
  constexpr int64_t end(int64_t row) const { return indptr ? indptr[row + 1] : (row + 1) * branches; }
  constexpr int64_t row_offset(int64_t row) const { return indptr ? indptr[row] * branch_stride : row * row_stride; }
  constexpr int64_t offset(int64_t branch) const {  // of the branch's first logit, in elements
    if (indptr) return branch * branch_stride;
    return branch / branches * row_stride + branch % branches * branch_stride;
  }
};

}  // namespace mtp_ext
