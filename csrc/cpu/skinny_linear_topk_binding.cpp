#include <tuple>

#include "skinny_linear_call.h"
#include "top_candidates.h"

namespace mtp_ext {
namespace {

constexpr const char* kOp = "skinny_linear_topk";
constexpr int64_t kSharePanels = 64;  // panels whose best outputs are collected together

// The best outputs of one row, and whether NaN or +inf was among them.
struct RowTop {
  TopCandidates best;
  bool broken = false;

  void add(const float* outputs, int64_t count, int64_t first_token) {
    for (int64_t i = 0; i < count; ++i) broken |= !(outputs[i] < kInfinity);
    best.add_all(outputs, count, first_token);
  }

  void add(const RowTop& other) {
    broken |= other.broken;
    best.add_all(other.best);
  }

  void write(int64_t k, float* values, int64_t* tokens) {
    std::fill_n(values, k, broken ? kNaN : -kInfinity);
    std::fill_n(tokens, k, int64_t{-1});
    if (broken) return;
    for (const Candidate& candidate : best.sorted()) {
      *values++ = candidate.value;
      *tokens++ = candidate.id;
    }
  }
};

std::tuple<Tensor, Tensor> skinny_linear_topk_cpu(const Tensor& x, const Tensor& panels,
                                                  const std::optional<Tensor>& bias, int64_t in_features,
                                                  int64_t out_features, int64_t k, bool bfloat16_arithmetic) {
  const LinearCall call(kOp, x, panels, bias, in_features, out_features, bfloat16_arithmetic);
  check_range(kOp, "k", k, 1, out_features);
  const LinearShape& shape = call.shape();
  const Tensor values = new_empty(x, {shape.rows, k}, kFloat32);
  const Tensor tokens = new_empty(x, {shape.rows, k}, kInt64);
  const int64_t shares = ceil_div(shape.panels(), kSharePanels);
  for (int64_t row_block = 0; row_block < shape.row_blocks(); ++row_block) {
    const int64_t rows = shape.block_rows(row_block);
    std::vector<RowTop> tops(shares * rows, RowTop{TopCandidates(k)});
    parallel_items(shares, kSharePanels * call.panel_cost(), [&](int64_t share) {
      float outputs[kRowBlock * kPanel];
      const int64_t end = std::min((share + 1) * kSharePanels, shape.panels());
      for (int64_t panel = share * kSharePanels; panel < end; ++panel) {
        call.outputs(panel, row_block, outputs);
        for (int64_t row = 0; row < rows; ++row) {
          tops[share * rows + row].add(outputs + row * kPanel, shape.columns(panel), panel * kPanel);
        }
      }
    });
    parallel_items(rows, shares * (k + kPanel), [&](int64_t row) {
      RowTop& top = tops[row];
      for (int64_t share = 1; share < shares; ++share) top.add(tops[share * rows + row]);
      const int64_t place = (row_block * kRowBlock + row) * k;
      top.write(k, values.mutable_data_ptr<float>() + place, tokens.mutable_data_ptr<int64_t>() + place);
    });
  }
  return {values, tokens};
}

}  // namespace
}  // namespace mtp_ext

STABLE_TORCH_LIBRARY_IMPL(mtp_ext, CPU, m) {
  m.impl("skinny_linear_topk", TORCH_BOX(&mtp_ext::skinny_linear_topk_cpu));
}
