#include "skinny_linear_call.h"

#include "../dispatch.h"
#include "simd.h"

namespace mtp_ext {
namespace {

constexpr int64_t kMostFeatures = int64_t{1} << 31;

void check_panels(const char* op, const Tensor& x, const Tensor& panels, const LinearShape& shape) {
  if (panels.scalar_type() == ScalarType::BFloat16) {
    check_tensor(op, "panels", panels,
                 {{"panels", shape.panels()}, {"pairs", shape.even_in() / 2}, {"columns", kPanel}, {"pair", 2}},
                 {ScalarType::BFloat16}, x);
  } else {
    check_tensor(op, "panels", panels, {{"panels", shape.panels()}, {"in", shape.in}, {"columns", kPanel}},
                 {kFloat32, ScalarType::BFloat16}, x);
  }
  if (!panels.is_contiguous()) refuse(op, "panels must be contiguous; call .contiguous() on it");
}

// Calls body with the rows of x as a typed pointer.
template <typename Body>
void with_rows(const Tensor& x, Body&& body) {
  if (x.scalar_type() == kFloat32) return body(static_cast<const float*>(x.const_data_ptr()));
  body(static_cast<const bfloat16*>(x.const_data_ptr()));
}

}  // namespace

LinearCall::LinearCall(const char* op, const Tensor& x, const Tensor& panels, const std::optional<Tensor>& bias,
                       int64_t in_features, int64_t out_features, bool bfloat16_arithmetic)
    : weight_(panels), in_panels_(true) {
  check_range(op, "in_features", in_features, 0, kMostFeatures);
  check_range(op, "out_features", out_features, 1, kMostFeatures);
  check_tensor(op, "x", x, {{"rows"}, {"in", in_features}}, {kFloat32, ScalarType::BFloat16}, x);
  shape_ = {x.size(0), in_features, out_features};
  check_panels(op, x, panels, shape_);
  check_bias(op, x, bias);
  if (bfloat16_arithmetic && panels.scalar_type() == kFloat32) {
    refuse(op, "bfloat16 arithmetic needs weights that are stored in bfloat16, got float32");
  }
  prepare(x, bfloat16_arithmetic);
}

LinearCall::LinearCall(const char* op, const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
                       bool bfloat16_arithmetic)
    : weight_(weight), in_panels_(false) {
  const auto check_weight = [&](std::initializer_list<ScalarType> dtypes) {
    check_tensor(op, "weight", weight, {{"out"}, {"in", x.size(1)}}, dtypes, x);
  };
  if (bfloat16_arithmetic) {
    check_tensor(op, "x", x, {{"rows"}, {"in"}}, {ScalarType::BFloat16}, x);
    check_weight({ScalarType::BFloat16});
  } else {
    check_tensor(op, "x", x, {{"rows"}, {"in"}}, {kFloat32, ScalarType::BFloat16}, x);
    check_weight({kFloat32, ScalarType::BFloat16, ScalarType::Half});
  }
  shape_ = {x.size(0), weight.size(1), weight.size(0)};
  check_bias(op, x, bias);
  prepare(x, bfloat16_arithmetic);
}

void LinearCall::check_bias(const char* op, const Tensor& x, const std::optional<Tensor>& bias) {
  if (!bias) return;
  check_tensor(op, "bias", *bias, {{"out", shape_.out}}, {kFloat32}, x);
  bias_ = bias->const_data_ptr<float>();
}

void LinearCall::prepare(const Tensor& x, bool bfloat16_arithmetic) {
  if (!bfloat16_arithmetic) {
    return with_rows(x, [&](const auto* rows) { interleave(rows, x.stride(0), shape_); });
  }
  const std::unique_ptr<bfloat16[]> rounded(new bfloat16[shape_.rows * shape_.even_in()]);
  with_rows(x, [&](const auto* rows) { round_rows(rows, x.stride(0), shape_, rounded.get()); });
  pairs_ = has_bfloat16_dots();
  if (pairs_) {
    const int64_t words = shape_.even_in() / 2;
    interleave(reinterpret_cast<const float*>(rounded.get()), words, {shape_.rows, words, shape_.out});
  } else {
    interleave(rounded.get(), shape_.even_in(), shape_);
  }
}

template <typename scalar_t>
void LinearCall::interleave(const scalar_t* rows, int64_t row_stride, const LinearShape& shape) {
  x_.reset(new float[interleaved_size(shape)]);
  interleave_rows(rows, row_stride, shape, x_.get());
}

void LinearCall::outputs(int64_t panel, int64_t row_block, float* out) const {
  const float* x = x_.get();
  if (!in_panels_ && pairs_) {
    multiply_rounded_rows(x, static_cast<const bfloat16*>(weight_.const_data_ptr()), weight_.stride(0), shape_, panel,
                          row_block, out);
  } else if (!in_panels_) {
    dispatch_logits("linear_into_", weight_, [&](const auto* weight) {
      multiply_rows(x, weight, weight_.stride(0), shape_, panel, row_block, out);
    });
  } else if (weight_.scalar_type() == kFloat32) {
    multiply_panel(x, panel_at(weight_.const_data_ptr<float>(), shape_, panel), shape_, row_block, out);
  } else {
    const auto* pairs = panel_at(static_cast<const bfloat16*>(weight_.const_data_ptr()), shape_, panel);
    pairs_ ? multiply_rounded(x, pairs, shape_, row_block, out) : multiply_panel(x, pairs, shape_, row_block, out);
  }
  if (!bias_) return;
  for (int64_t row = 0; row < shape_.block_rows(row_block); ++row) {
    for (int64_t i = 0; i < shape_.columns(panel); ++i) out[row * kPanel + i] += bias_[panel * kPanel + i];
  }
}

template <typename scalar_t>
void LinearCall::write(scalar_t* out, int64_t row_stride) const {
  const int64_t row_blocks = shape_.row_blocks();
  parallel_items(shape_.panels() * row_blocks, panel_cost(), [&](int64_t i) {
    const int64_t panel = i / row_blocks, row_block = i % row_blocks;
    float panel_outputs[kRowBlock * kPanel];
    outputs(panel, row_block, panel_outputs);
    for (int64_t row = 0; row < shape_.block_rows(row_block); ++row) {
      const float* from = panel_outputs + row * kPanel;
      scalar_t* to = out + (row_block * kRowBlock + row) * row_stride + panel * kPanel;
      const int64_t columns = shape_.columns(panel);
      for (int64_t i = 0; i < columns; i += kLanes) store_lanes(to + i, std::min(kLanes, columns - i), load(from + i));
    }
  });
}

template void LinearCall::write(float*, int64_t) const;
template void LinearCall::write(bfloat16*, int64_t) const;

}  // namespace mtp_ext
