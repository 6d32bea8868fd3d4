#include "skinny_linear_call.h"

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
                       int64_t in_features, int64_t out_features, bool bfloat16_arithmetic) {
  check_range(op, "in_features", in_features, 0, kMostFeatures);
  check_range(op, "out_features", out_features, 1, kMostFeatures);
  check_tensor(op, "x", x, {{"rows"}, {"in", in_features}}, {kFloat32, ScalarType::BFloat16}, x);
  shape_ = {x.size(0), in_features, out_features};
  check_panels(op, x, panels, shape_);
  if (bias) check_tensor(op, "bias", *bias, {{"out", out_features}}, {kFloat32}, x);
  float32_panels_ = panels.scalar_type() == kFloat32;
  if (bfloat16_arithmetic && float32_panels_) {
    refuse(op, "bfloat16 arithmetic needs weights that are stored in bfloat16, got float32");
  }
  panels_ = panels.const_data_ptr();
  bias_ = bias ? bias->const_data_ptr<float>() : nullptr;
  prepare(x, bfloat16_arithmetic);
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
  const auto* numbers = static_cast<const float*>(panels_);
  const auto* pairs = static_cast<const bfloat16*>(panels_);
  if (float32_panels_) {
    multiply_panel(x_.get(), panel_at(numbers, shape_, panel), shape_, row_block, out);
  } else if (pairs_) {
    multiply_rounded(x_.get(), panel_at(pairs, shape_, panel), shape_, row_block, out);
  } else {
    multiply_panel(x_.get(), panel_at(pairs, shape_, panel), shape_, row_block, out);
  }
  if (!bias_) return;
  for (int64_t row = 0; row < shape_.block_rows(row_block); ++row) {
    for (int64_t i = 0; i < shape_.columns(panel); ++i) out[row * kPanel + i] += bias_[panel * kPanel + i];
  }
}

}  // namespace mtp_ext
