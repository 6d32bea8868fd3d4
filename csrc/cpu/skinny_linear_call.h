// What the ops of linear layers share: their checks, x as the kernel wants it, and the outputs of one panel.
#pragma once

#include <memory>
#include <optional>

#include "../checks.h"
#include "parallel.h"
#include "skinny_linear.h"

namespace mtp_ext {

class LinearCall {
 public:
  // Checks the arguments and prepares x: for a weight in panels. Arithmetic in bfloat16 is left to float32 where the
  // machine cannot do it.
  LinearCall(const char* op, const Tensor& x, const Tensor& panels, const std::optional<Tensor>& bias,
             int64_t in_features, int64_t out_features, bool bfloat16_arithmetic);

  // For a weight [out, in] that lies row by row. Arithmetic in bfloat16 wants it and x in bfloat16.
  LinearCall(const char* op, const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
             bool bfloat16_arithmetic);

  const LinearShape& shape() const { return shape_; }

  // The outputs [rows of the block, kPanel], bias included, of which shape().columns(panel) columns exist.
  void outputs(int64_t panel, int64_t row_block, float* out) const;

  // All outputs, a panel a task: float32 or bfloat16 [rows, out].
  template <typename scalar_t>
  void write(scalar_t* out, int64_t row_stride) const;

  // Reads that a panel is worth in parallel_items, for all rows of a block.
  int64_t panel_cost() const { return shape_.in * kPanel * ceil_div(std::min(shape_.rows, kRowBlock), kRowGroup); }

 private:
  void check_bias(const char* op, const Tensor& x, const std::optional<Tensor>& bias);
  void prepare(const Tensor& x, bool bfloat16_arithmetic);
  template <typename scalar_t>
  void interleave(const scalar_t* rows, int64_t row_stride, const LinearShape& shape);

  LinearShape shape_;
  const Tensor weight_;
  bool in_panels_;
  const float* bias_ = nullptr;
  std::unique_ptr<float[]> x_;  // interleaved: its numbers, or
  bool pairs_ = false;          // its pairs of bfloat16
};

}  // namespace mtp_ext
