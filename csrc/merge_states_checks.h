// What `merge_states` takes, on any device; mtp_ext/ops/merge_states.py says the same sentences.
#pragma once

#include "checks.h"
#include "merge_states.h"

namespace mtp_ext {

inline MergeStates check_merge_states(const Tensor& out_a, const Tensor& lse_a, const Tensor& out_b,
                                      const Tensor& lse_b) {
  constexpr const char* kOp = "merge_states";
  check_tensor(kOp, "out_a", out_a, {{"batch"}, {"nodes"}, {"heads"}, {"value_dim"}},
               {ScalarType::Float, ScalarType::BFloat16, ScalarType::Half}, out_a);
  const int64_t batch = out_a.size(0), nodes = out_a.size(1), heads = out_a.size(2), dim = out_a.size(3);
  check_tensor(kOp, "out_b", out_b, {{"batch", batch}, {"nodes", nodes}, {"heads", heads}, {"value_dim", dim}},
               {out_a.scalar_type()}, out_a);
  check_tensor(kOp, "lse_a", lse_a, {{"batch", batch}, {"nodes", nodes}, {"heads", heads}}, {kFloat32}, out_a);
  check_tensor(kOp, "lse_b", lse_b, {{"batch", batch}, {"nodes", nodes}, {"heads", heads}}, {kFloat32}, out_a);
  const auto stride = [](const Tensor& tensor) {
    return StateStride{tensor.stride(0), tensor.stride(1), tensor.stride(2)};
  };
  return {batch, nodes, heads, dim, batch * nodes * heads, stride(out_a), stride(lse_a), stride(out_b), stride(lse_b)};
}

}  // namespace mtp_ext
