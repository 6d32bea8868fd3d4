#include <tuple>

#include "../dispatch.h"
#include "../select_checks.h"
#include "launch.h"
#include "select_branches.h"
#include "vocab_check.h"

namespace mtp_ext {
namespace {

constexpr const char* kOp = "select_branches";

std::tuple<Tensor, Tensor, Tensor, Tensor> select_branches_cuda(const Tensor& logits, double top_p,
                                                                const std::optional<int64_t> top_k, double temperature,
                                                                int64_t max_branches) {
  const NucleusLimits limits = check_select_branches(logits, top_p, top_k, temperature, max_branches);
  const int64_t rows = logits.size(0);
  const int64_t vocab = logits.size(1);
  check_cuda_vocab(kOp, vocab);
  const Launch launch(kOp, logits);
  const int64_t capacity = cuda::winner_capacity(vocab, limits.width);
  const Tensor workspace = new_empty(logits, {rows * cuda::winner_workspace(capacity)}, kInt64);
  const Tensor tokens = new_empty(logits, {rows, limits.width}, kInt64);
  const Tensor log_probs = new_empty(logits, {rows, limits.width}, kFloat32);
  const Tensor counts = new_empty(logits, {rows}, kInt64);
  const Tensor dropped_mass = new_empty(logits, {rows}, kFloat32);
  dispatch_logits(kOp, logits, [&](const auto* data) {
    cuda::SelectBranchesParams<std::decay_t<decltype(*data)>> params{};
    params.rows = rows;
    params.vocab = vocab;
    params.stride = logits.stride(0);
    params.width = limits.width;
    params.top_p = limits.top_p;
    params.scale = limits.scale;
    params.logits = data;
    params.tokens = tokens.mutable_data_ptr<int64_t>();
    params.log_probs = log_probs.mutable_data_ptr<float>();
    params.counts = counts.mutable_data_ptr<int64_t>();
    params.dropped_mass = dropped_mass.mutable_data_ptr<float>();
    params.workspace = reinterpret_cast<uint64_t*>(workspace.mutable_data_ptr<int64_t>());
    check_launch(kOp, cuda::select_branches(params, launch.stream));
  });
  return {tokens, log_probs, counts, dropped_mass};
}

}  // namespace
}  // namespace mtp_ext

STABLE_TORCH_LIBRARY_IMPL(mtp_ext, MTP_EXT_CUDA_KEY, m) {
  m.impl("select_branches", TORCH_BOX(&mtp_ext::select_branches_cuda));
}
