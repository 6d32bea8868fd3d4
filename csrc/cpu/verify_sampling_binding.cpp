// verify_sampling: the accepted path of each request, by one of four methods, and a sample of what follows it.
#include <cmath>

#include "../dispatch.h"
#include "argmax.h"
#include "verify_sampling.h"
#include "verify_values.h"

namespace mtp_ext {
namespace {

constexpr const char* kOp = "verify_sampling";
constexpr float kRounding = 1e-3f;  // nats by which a log-probability may be above 0

void check_uniforms(const Tensor& uniforms, const Tensor& tokens) {
  const int64_t width = tokens.size(1) + 1;
  for (int64_t b = 0; b < tokens.size(0); ++b) {
    const float* row = uniforms.const_data_ptr<float>() + b * uniforms.stride(0);
    for (int64_t i = 0; i < width; ++i) {
      if (!(row[i] >= 0 && row[i] < 1)) {
        refuse(kOp, "uniforms must be in [0, 1), got uniforms[", b, ", ", i, "]=", row[i]);
      }
    }
  }
}

void check_drafts(const Tensor& tokens, const Tensor& parents, const Tensor& draft_log_probs,
                  const Tensor& draft_rows) {
  const int64_t nodes = tokens.size(1);
  const int64_t q_rows = draft_log_probs.size(0);
  for (int64_t b = 0; b < tokens.size(0); ++b) {
    const int64_t* ids = tokens.const_data_ptr<int64_t>() + b * tokens.stride(0);
    const int64_t* links = parents.const_data_ptr<int64_t>() + b * parents.stride(0);
    const int64_t* rows = draft_rows.const_data_ptr<int64_t>() + b * draft_rows.stride(0);
    std::vector<int64_t> row_of(nodes, -1);  // by parent
    for (int64_t i = 1; i < nodes && links[i] != -2; ++i) {
      if (rows[i] < 0 || rows[i] >= q_rows) {
        refuse(kOp, "draft_rows must be from 0 to ", q_rows - 1, ", got draft_rows[", b, ", ", i, "]=", rows[i]);
      }
      int64_t& row = row_of[links[i]];
      if (row < 0) row = rows[i];
      if (row != rows[i]) {
        refuse(kOp, "draft_rows must be the same for siblings, got draft_rows[", b, ", ", i, "]=", rows[i], " beside ",
               row);
      }
      const float log_prob = draft_log_probs.const_data_ptr<float>()[rows[i] * draft_log_probs.stride(0) + ids[i]];
      if (!(log_prob <= kRounding)) {
        refuse(kOp, "draft_log_probs must not be above 0, got draft_log_probs[", rows[i], ", ", ids[i], "]=", log_prob);
      }
    }
  }
}

// A setting of each request; fits(value) is whether it may be that.
template <typename value_t, typename Fits>
const value_t* check_setting(const char* name, const std::optional<Tensor>& values, const char* expected,
                             const Fits& fits) {
  if (!values) return nullptr;
  const value_t* data = values->const_data_ptr<value_t>();
  for (int64_t b = 0; b < values->size(0); ++b) {
    if (!fits(data[b])) refuse(kOp, name, " must be ", expected, ", got ", name, "[", b, "]=", data[b]);
  }
  return data;
}

Accepted verify_sampling_cpu(const Tensor& tokens, const Tensor& parents, const Tensor& target_logits,
                             const Tensor& uniforms, const std::string& method_name,
                             const std::optional<Tensor>& draft_log_probs, const std::optional<Tensor>& draft_rows,
                             const Tensor& temperature, const std::optional<Tensor>& top_k,
                             const std::optional<Tensor>& top_p, const std::optional<Tensor>& min_p, double epsilon,
                             double delta) {
  const SamplingMethod method =
      check_verify_sampling({tokens, parents, target_logits, uniforms, method_name, draft_log_probs, draft_rows,
                             temperature, top_k, top_p, min_p, epsilon, delta});
  const bool sampled = is_sampled(method);
  const int64_t vocab = target_logits.size(2);
  check_parents(kOp, tokens, parents);
  check_tokens(kOp, tokens, parents, vocab);
  check_uniforms(uniforms, tokens);
  if (sampled) check_drafts(tokens, parents, *draft_log_probs, *draft_rows);
  const float* temperatures = check_setting<float>("temperature", temperature, "0 or from 1e-30 to 1e+30",
                                                   [](float x) { return x == 0 || (x >= 1e-30f && x <= 1e30f); });
  const int64_t* top_ks = check_setting<int64_t>("top_k", top_k, "at least 1", [](int64_t x) { return x >= 1; });
  const float* top_ps = check_setting<float>("top_p", top_p, "in (0, 1]", [](float x) { return x > 0 && x <= 1; });
  const float* min_ps = check_setting<float>("min_p", min_p, "in [0, 1]", [](float x) { return x >= 0 && x <= 1; });

  std::optional<Accepted> accepted;
  dispatch_logits(kOp, target_logits, [&](const auto* data) {
    using scalar_t = std::decay_t<decltype(*data)>;
    accepted = verify_requests(tokens, parents, [&](int64_t b, const DraftTree& tree, const ParallelFor& parallel) {
      const scalar_t* logits = data + b * target_logits.stride(0);
      const int64_t node_stride = target_logits.stride(1);
      if (temperatures[b] == 0) {
        return follow_best(tree, [&](int64_t node) { return argmax(logits + node * node_stride, vocab, parallel); });
      }
      SamplingRequest<scalar_t> request{};
      request.vocab = vocab;
      request.node_stride = node_stride;
      request.logits = logits;
      request.uniforms = uniforms.const_data_ptr<float>() + b * uniforms.stride(0);
      if (sampled) {
        request.draft_log_probs = draft_log_probs->const_data_ptr<float>();
        request.draft_stride = draft_log_probs->stride(0);
        request.draft_rows = draft_rows->const_data_ptr<int64_t>() + b * draft_rows->stride(0);
      }
      request.limits = {static_cast<float>(1 / (temperatures[b] * kLn2)), top_ks ? top_ks[b] : vocab,
                        top_ps ? top_ps[b] : 1.0, min_ps ? min_ps[b] : 0.0};
      request.epsilon = epsilon;
      request.delta = delta;
      return verify_by_sampling(method, tree, request, parallel);
    });
  });
  return *accepted;
}

}  // namespace
}  // namespace mtp_ext

STABLE_TORCH_LIBRARY_IMPL(mtp_ext, CPU, m) { m.impl("verify_sampling", TORCH_BOX(&mtp_ext::verify_sampling_cpu)); }
