// append_ on a CUDA device.
#include "../append_checks.h"
#include "append.h"
#include "cache_limits.h"
#include "launch.h"

namespace mtp_ext::cuda {
namespace {

void run_append(const Tensor& key, const Tensor& value, const Tensor& new_key, const Tensor& new_value,
                const Tensor& prefix_lengths, const std::optional<Tensor>& page_table,
                const std::optional<Tensor>& node_counts) {
  constexpr const char* kOp = "append_";
  const Append a = check_append(key, value, new_key, new_value, prefix_lengths, page_table, node_counts);
  check_rows(kOp, a.capacity);
  const Launch launch(kOp, new_key);
  check_launch(kOp, append(a, launch.status, launch.stream));
}

}  // namespace
}  // namespace mtp_ext::cuda

STABLE_TORCH_LIBRARY_IMPL(mtp_ext, MTP_EXT_CUDA_KEY, m) { m.impl("append_", TORCH_BOX(&mtp_ext::cuda::run_append)); }
