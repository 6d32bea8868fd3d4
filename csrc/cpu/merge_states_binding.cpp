// merge_states: attention over two disjoint sets of keys, joined.
//   lse = log(exp(lse_a) + exp(lse_b)),  out = exp(lse_a - lse) out_a + exp(lse_b - lse) out_b
// An lse of +inf, that of an infinite score, stays +inf, and the row is NaN, as the softmax of such a score is.
#include <cmath>
#include <tuple>

#include "../dispatch.h"
#include "parallel.h"
#include "simd.h"

namespace mtp_ext {
namespace {

constexpr const char* kOp = "merge_states";

std::tuple<Tensor, Tensor> merge_states_cpu(const Tensor& out_a, const Tensor& lse_a, const Tensor& out_b,
                                            const Tensor& lse_b) {
  check_tensor(kOp, "out_a", out_a, {{"batch"}, {"nodes"}, {"heads"}, {"value_dim"}},
               {ScalarType::Float, ScalarType::BFloat16, ScalarType::Half}, out_a);
  const int64_t batch = out_a.size(0), nodes = out_a.size(1), heads = out_a.size(2), dim = out_a.size(3);
  check_tensor(kOp, "out_b", out_b, {{"batch", batch}, {"nodes", nodes}, {"heads", heads}, {"value_dim", dim}},
               {out_a.scalar_type()}, out_a);
  check_tensor(kOp, "lse_a", lse_a, {{"batch", batch}, {"nodes", nodes}, {"heads", heads}}, {kFloat32}, out_a);
  check_tensor(kOp, "lse_b", lse_b, {{"batch", batch}, {"nodes", nodes}, {"heads", heads}}, {kFloat32}, out_a);
  const Tensor out = new_empty(out_a, {batch, nodes, heads, dim}, out_a.scalar_type());
  const Tensor lse = new_empty(out_a, {batch, nodes, heads}, kFloat32);
  const auto offset = [&](const Tensor& tensor, int64_t i) {
    return i / (nodes * heads) * tensor.stride(0) + i / heads % nodes * tensor.stride(1) + i % heads * tensor.stride(2);
  };
  dispatch_logits(kOp, out_a, [&](const auto* a) {
    using scalar_t = std::remove_const_t<std::remove_pointer_t<decltype(a)>>;
    const auto* b = static_cast<const scalar_t*>(out_b.const_data_ptr());
    auto* target = static_cast<scalar_t*>(out.mutable_data_ptr());
    parallel_items(batch * nodes * heads, dim, [&](int64_t i) {
      const double one = lse_a.const_data_ptr<float>()[offset(lse_a, i)];
      const double other = lse_b.const_data_ptr<float>()[offset(lse_b, i)];
      const double largest = std::max(one, other);
      const double finite = largest == -kInfinity ? 0 : largest;
      const double total = std::exp(one - finite) + std::exp(other - finite);
      const double apart = one == other ? 0 : std::abs(one - other);  // equal infinities are not apart
      const double joined = largest + std::log1p(std::exp(-apart));
      const double scale = total > 0 ? 1 / total : 0;
      const auto share_a = static_cast<float>(std::exp(one - finite) * scale);
      const auto share_b = static_cast<float>(std::exp(other - finite) * scale);
      const scalar_t* row_a = a + offset(out_a, i);
      const scalar_t* row_b = b + offset(out_b, i);
      for (int64_t d = 0; d < dim; ++d) {
        store_number(target + i * dim + d, share_a * to_float(row_a[d]) + share_b * to_float(row_b[d]));
      }
      lse.mutable_data_ptr<float>()[i] = static_cast<float>(joined);
    });
  });
  return {out, lse};
}

}  // namespace
}  // namespace mtp_ext

STABLE_TORCH_LIBRARY_IMPL(mtp_ext, CPU, m) { m.impl("merge_states", TORCH_BOX(&mtp_ext::merge_states_cpu)); }
