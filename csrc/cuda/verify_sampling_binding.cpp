#include "../dispatch.h"
#include "verify_binding.h"
#include "verify_sampling.h"

namespace mtp_ext {
namespace {

constexpr const char* kOp = "verify_sampling";

template <typename value_t>
const value_t* data_or_null(const std::optional<Tensor>& tensor) {
  return tensor ? tensor->const_data_ptr<value_t>() : nullptr;
}

Accepted verify_sampling_cuda(const Tensor& tokens, const Tensor& parents, const Tensor& target_logits,
                              const Tensor& uniforms, const std::string& method_name,
                              const std::optional<Tensor>& draft_log_probs, const std::optional<Tensor>& draft_rows,
                              const Tensor& temperature, const std::optional<Tensor>& top_k,
                              const std::optional<Tensor>& top_p, const std::optional<Tensor>& min_p, double epsilon,
                              double delta) {
  const SamplingMethod method =
      check_verify_sampling({tokens, parents, target_logits, uniforms, method_name, draft_log_probs, draft_rows,
                             temperature, top_k, top_p, min_p, epsilon, delta});
  const int64_t vocab = target_logits.size(2);
  check_cuda_vocab(kOp, vocab);
  const Launch launch(kOp, tokens);
  const Accepted accepted = new_accepted(tokens);
  const int64_t workspace_bytes = tokens.size(0) * tokens.size(1) * static_cast<int64_t>(sizeof(cuda::SamplingNode));
  const Tensor workspace = new_empty(tokens, {workspace_bytes}, ScalarType::Byte);
  dispatch_logits(kOp, target_logits, [&](const auto* data) {
    cuda::VerifySamplingParams<std::decay_t<decltype(*data)>> params{};
    params.drafts = to_draft_batch(tokens, parents, vocab, accepted, launch.status);
    params.method = method;
    params.vocab = vocab;
    params.request_stride = target_logits.stride(0);
    params.node_stride = target_logits.stride(1);
    params.uniform_stride = uniforms.stride(0);
    if (is_sampled(method)) {
      params.draft_stride = draft_log_probs->stride(0);
      params.row_stride = draft_rows->stride(0);
      params.q_rows = draft_log_probs->size(0);
      params.draft_log_probs = draft_log_probs->const_data_ptr<float>();
      params.draft_rows = draft_rows->const_data_ptr<int64_t>();
    }
    params.logits = data;
    params.uniforms = uniforms.const_data_ptr<float>();
    params.temperature = temperature.const_data_ptr<float>();
    params.top_k = data_or_null<int64_t>(top_k);
    params.top_p = data_or_null<float>(top_p);
    params.min_p = data_or_null<float>(min_p);
    params.epsilon = epsilon;
    params.delta = delta;
    params.workspace = reinterpret_cast<cuda::SamplingNode*>(workspace.mutable_data_ptr<uint8_t>());
    check_launch(kOp, cuda::verify_sampling(params, launch.stream));
  });
  return accepted;
}

}  // namespace
}  // namespace mtp_ext

STABLE_TORCH_LIBRARY_IMPL(mtp_ext, MTP_EXT_CUDA_KEY, m) {
  m.impl("verify_sampling", TORCH_BOX(&mtp_ext::verify_sampling_cuda));
}
