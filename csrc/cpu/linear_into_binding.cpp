#include "skinny_linear_call.h"

namespace mtp_ext {
namespace {

constexpr const char* kOp = "linear_into_";

void linear_into_cpu(const Tensor& out, const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
                     std::optional<int64_t> out_features) {
  check_tensor(kOp, "x", x, {{"rows"}, {"in"}}, {kFloat32, ScalarType::BFloat16}, x);
  const LinearCall call = out_features ? LinearCall(kOp, x, weight, bias, x.size(1), *out_features, false)
                                       : LinearCall(kOp, x, weight, bias);
  const LinearShape& shape = call.shape();
  check_tensor(kOp, "out", out, {{"rows", shape.rows}, {"out", shape.out}}, {kFloat32}, x);
  call.write(out.mutable_data_ptr<float>(), out.stride(0));
}

}  // namespace
}  // namespace mtp_ext

STABLE_TORCH_LIBRARY_IMPL(mtp_ext, CPU, m) { m.impl("linear_into_", TORCH_BOX(&mtp_ext::linear_into_cpu)); }
