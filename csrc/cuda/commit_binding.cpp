// commit_ on a CUDA device.
#include "../commit_checks.h"
#include "cache_limits.h"
#include "commit.h"
#include "launch.h"

namespace mtp_ext::cuda {
namespace {

Tensor run_commit(const std::vector<Tensor>& keys, const std::vector<Tensor>& values, const Tensor& prefix_lengths,
                  const Tensor& nodes, const Tensor& lengths, const std::optional<Tensor>& page_table) {
  constexpr const char* kOp = "commit_";
  const Commit layers = check_commit(keys, values, prefix_lengths, nodes, lengths, page_table);
  if (!keys.empty()) check_rows(kOp, layers.paths.capacity);
  const Launch launch(kOp, nodes);
  const Tensor new_lengths = new_empty(nodes, {layers.paths.batch}, kInt64);
  check_launch(kOp, commit(layers, new_lengths.mutable_data_ptr<int64_t>(), launch.status, launch.stream));
  return new_lengths;
}

}  // namespace
}  // namespace mtp_ext::cuda

STABLE_TORCH_LIBRARY_IMPL(mtp_ext, MTP_EXT_CUDA_KEY, m) { m.impl("commit_", TORCH_BOX(&mtp_ext::cuda::run_commit)); }
