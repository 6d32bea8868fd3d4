#include "skinny_linear_call.h"

namespace mtp_ext {
namespace {

constexpr const char* kOp = "linear_into_";

void linear_into_cpu(const Tensor& out, const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
                     std::optional<int64_t> out_features) {
  const bool in_bfloat16 = out.scalar_type() == ScalarType::BFloat16;
  const LinearCall call = [&] {
    if (!out_features) return LinearCall(kOp, x, weight, bias, in_bfloat16);
    check_tensor(kOp, "x", x, {{"rows"}, {"in"}}, {kFloat32, ScalarType::BFloat16}, x);
    return LinearCall(kOp, x, weight, bias, x.size(1), *out_features, in_bfloat16);
  }();
  const LinearShape& shape = call.shape();
  check_tensor(kOp, "out", out, {{"rows", shape.rows}, {"out", shape.out}}, {kFloat32, ScalarType::BFloat16}, x);
  if (in_bfloat16) {
    call.write(static_cast<bfloat16*>(out.mutable_data_ptr()), out.stride(0));
  } else {
    call.write(out.mutable_data_ptr<float>(), out.stride(0));
  }
}

}  // namespace
}  // namespace mtp_ext

STABLE_TORCH_LIBRARY_IMPL(mtp_ext, CPU, m) { m.impl("linear_into_", TORCH_BOX(&mtp_ext::linear_into_cpu)); }
