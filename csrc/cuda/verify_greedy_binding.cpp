#include "../dispatch.h"
#include "verify_binding.h"
#include "verify_greedy.h"

namespace mtp_ext {
namespace {

constexpr const char* kOp = "verify_greedy";

Accepted verify_greedy_cuda(const Tensor& tokens, const Tensor& parents, const Tensor& target) {
  check_verify_greedy(tokens, parents, target);
  const bool by_token = target.scalar_type() == kInt64;
  const int64_t vocab = by_token ? 0 : target.size(2);
  check_cuda_vocab(kOp, vocab);
  const Launch launch(kOp, tokens);
  const Accepted accepted = new_accepted(tokens);
  const auto run = [&](const auto* data) {
    cuda::VerifyGreedyParams<std::decay_t<decltype(*data)>> params{};
    params.drafts = to_draft_batch(tokens, parents, vocab, accepted, launch.status);
    params.target = data;
    params.request_stride = target.stride(0);
    params.node_stride = target.stride(1);
    params.vocab = vocab;
    check_launch(kOp, cuda::verify_greedy(params, launch.stream));
  };
  if (by_token) {
    run(target.const_data_ptr<int64_t>());
  } else {
    dispatch_logits(kOp, target, run);
  }
  return accepted;
}

}  // namespace
}  // namespace mtp_ext

STABLE_TORCH_LIBRARY_IMPL(mtp_ext, MTP_EXT_CUDA_KEY, m) {
  m.impl("verify_greedy", TORCH_BOX(&mtp_ext::verify_greedy_cuda));
}
