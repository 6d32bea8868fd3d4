// merge_states on a CPU.
#include <cmath>
#include <tuple>

#include "../dispatch.h"
#include "../merge_states_checks.h"
#include "parallel.h"
#include "simd.h"

namespace mtp_ext {
namespace {

std::tuple<Tensor, Tensor> merge_states_cpu(const Tensor& out_a, const Tensor& lse_a, const Tensor& out_b,
                                            const Tensor& lse_b) {
  const MergeStates m = check_merge_states(out_a, lse_a, out_b, lse_b);
  const Tensor out = new_empty(out_a, {m.batch, m.nodes, m.heads, m.value_dim}, out_a.scalar_type());
  const Tensor lse = new_empty(out_a, {m.batch, m.nodes, m.heads}, kFloat32);
  const auto offset = [&](const StateStride& stride, int64_t i) {
    return i / (m.nodes * m.heads) * stride.batch + i / m.heads % m.nodes * stride.node + i % m.heads * stride.head;
  };
  dispatch_logits("merge_states", out_a, [&](const auto* a) {
    using scalar_t = std::remove_const_t<std::remove_pointer_t<decltype(a)>>;
    const auto* b = static_cast<const scalar_t*>(out_b.const_data_ptr());
    auto* target = static_cast<scalar_t*>(out.mutable_data_ptr());
    parallel_items(m.rows, m.value_dim, [&](int64_t i) {
      const double one = lse_a.const_data_ptr<float>()[offset(m.lse_a, i)];
      const double other = lse_b.const_data_ptr<float>()[offset(m.lse_b, i)];
      const double largest = std::max(one, other);
      const double finite = largest == -kInfinity ? 0 : largest;
      const double total = std::exp(one - finite) + std::exp(other - finite);
      const double apart = one == other ? 0 : std::abs(one - other);  // equal infinities are not apart
      const double joined = largest + std::log1p(std::exp(-apart));
      const double scale = total > 0 ? 1 / total : 0;
      const auto share_a = static_cast<float>(std::exp(one - finite) * scale);
      const auto share_b = static_cast<float>(std::exp(other - finite) * scale);
      const scalar_t* row_a = a + offset(m.out_a, i);
      const scalar_t* row_b = b + offset(m.out_b, i);
      for (int64_t d = 0; d < m.value_dim; ++d) {
        store_number(target + i * m.value_dim + d, share_a * to_float(row_a[d]) + share_b * to_float(row_b[d]));
      }
      lse.mutable_data_ptr<float>()[i] = static_cast<float>(joined);
    });
  });
  return {out, lse};
}

}  // namespace
}  // namespace mtp_ext

STABLE_TORCH_LIBRARY_IMPL(mtp_ext, CPU, m) { m.impl("merge_states", TORCH_BOX(&mtp_ext::merge_states_cpu)); }
