#include "skinny_linear_call.h"

namespace mtp_ext {
namespace {

Tensor skinny_linear_cpu(const Tensor& x, const Tensor& panels, const std::optional<Tensor>& bias, int64_t in_features,
                         int64_t out_features, bool bfloat16_arithmetic) {
  const LinearCall call("skinny_linear", x, panels, bias, in_features, out_features, bfloat16_arithmetic);
  const LinearShape& shape = call.shape();
  const Tensor out = new_empty(x, {shape.rows, shape.out}, kFloat32);
  call.write(out.mutable_data_ptr<float>(), shape.out);
  return out;
}

}  // namespace
}  // namespace mtp_ext

STABLE_TORCH_LIBRARY_IMPL(mtp_ext, CPU, m) { m.impl("skinny_linear", TORCH_BOX(&mtp_ext::skinny_linear_cpu)); }
