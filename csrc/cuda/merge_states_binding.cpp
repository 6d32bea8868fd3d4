// merge_states on a CUDA device.
#include <tuple>

#include "../dispatch.h"
#include "../merge_states_checks.h"
#include "launch.h"
#include "merge_states.h"

namespace mtp_ext::cuda {
namespace {

std::tuple<Tensor, Tensor> run_merge_states(const Tensor& out_a, const Tensor& lse_a, const Tensor& out_b,
                                            const Tensor& lse_b) {
  constexpr const char* kOp = "merge_states";
  const MergeStates m = check_merge_states(out_a, lse_a, out_b, lse_b);
  const Launch launch(kOp, out_a);
  const Tensor out = new_empty(out_a, {m.batch, m.nodes, m.heads, m.value_dim}, out_a.scalar_type());
  const Tensor lse = new_empty(out_a, {m.batch, m.nodes, m.heads}, kFloat32);
  dispatch_logits(kOp, out_a, [&](const auto* data) {
    using scalar_t = std::remove_const_t<std::remove_pointer_t<decltype(data)>>;
    check_launch(
        kOp, merge_states(m, data, lse_a.const_data_ptr<float>(), static_cast<const scalar_t*>(out_b.const_data_ptr()),
                          lse_b.const_data_ptr<float>(), static_cast<scalar_t*>(out.mutable_data_ptr()),
                          lse.mutable_data_ptr<float>(), launch.stream));
  });
  return {out, lse};
}

}  // namespace
}  // namespace mtp_ext::cuda

STABLE_TORCH_LIBRARY_IMPL(mtp_ext, MTP_EXT_CUDA_KEY, m) {
  m.impl("merge_states", TORCH_BOX(&mtp_ext::cuda::run_merge_states));
}
