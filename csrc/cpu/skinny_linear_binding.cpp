#include <algorithm>

#include "skinny_linear_call.h"

namespace mtp_ext {
namespace {

Tensor skinny_linear_cpu(const Tensor& x, const Tensor& panels, const std::optional<Tensor>& bias, int64_t in_features,
                         int64_t out_features, bool bfloat16_arithmetic) {
  const LinearCall call("skinny_linear", x, panels, bias, in_features, out_features, bfloat16_arithmetic);
  const LinearShape& shape = call.shape();
  const Tensor out = new_empty(x, {shape.rows, shape.out}, kFloat32);
  float* out_data = out.mutable_data_ptr<float>();
  const int64_t row_blocks = shape.row_blocks();
  parallel_items(shape.panels() * row_blocks, call.panel_cost(), [&](int64_t i) {
    const int64_t panel = i / row_blocks, row_block = i % row_blocks;
    float outputs[kRowBlock * kPanel];
    call.outputs(panel, row_block, outputs);
    for (int64_t row = 0; row < shape.block_rows(row_block); ++row) {
      std::copy_n(outputs + row * kPanel, shape.columns(panel),
                  out_data + (row_block * kRowBlock + row) * shape.out + panel * kPanel);
    }
  });
  return out;
}

}  // namespace
}  // namespace mtp_ext

STABLE_TORCH_LIBRARY_IMPL(mtp_ext, CPU, m) { m.impl("skinny_linear", TORCH_BOX(&mtp_ext::skinny_linear_cpu)); }
