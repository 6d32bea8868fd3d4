#include "verify_checks.h"

namespace mtp_ext {
namespace {

constexpr auto kLogitDtypes = {ScalarType::Float, ScalarType::BFloat16, ScalarType::Half};

void check_tree(const char* op, const Tensor& tokens, const Tensor& parents) {
  check_tensor(op, "tokens", tokens, {{"batch"}, {"nodes"}}, {kInt64}, tokens);
  check_tensor(op, "parents", parents, {{"batch", tokens.size(0)}, {"nodes", tokens.size(1)}}, {kInt64}, tokens);
}

SamplingMethod check_method(const char* op, const std::string& method) {
  if (method == "target_only") return SamplingMethod::kTargetOnly;
  if (method == "without_replacement") return SamplingMethod::kWithoutReplacement;
  if (method == "traversal") return SamplingMethod::kTraversal;
  if (method == "typical") return SamplingMethod::kTypical;
  refuse(op, "method must be target_only, without_replacement, traversal or typical, got '", method, "'");
}

void check_share(const char* op, const char* name, double value) {
  if (!(value >= 0 && value <= 1)) refuse(op, name, " must be in [0, 1], got ", value);
}

}  // namespace

void check_verify_greedy(const Tensor& tokens, const Tensor& parents, const Tensor& target) {
  constexpr const char* kOp = "verify_greedy";
  check_tree(kOp, tokens, parents);
  const int64_t batch = tokens.size(0);
  const int64_t nodes = tokens.size(1);
  if (target.scalar_type() == kInt64) {
    check_tensor(kOp, "target", target, {{"batch", batch}, {"nodes", nodes}}, {kInt64}, tokens);
  } else {
    check_tensor(kOp, "target", target, {{"batch", batch}, {"nodes", nodes}, {"vocab"}}, kLogitDtypes, tokens);
  }
}

SamplingMethod check_verify_sampling(const SamplingArguments& arguments) {
  constexpr const char* kOp = "verify_sampling";
  const Tensor& tokens = arguments.tokens;
  check_tree(kOp, tokens, arguments.parents);
  const int64_t batch = tokens.size(0);
  const int64_t nodes = tokens.size(1);
  check_tensor(kOp, "target_logits", arguments.target_logits, {{"batch", batch}, {"nodes", nodes}, {"vocab"}},
               kLogitDtypes, tokens);
  check_tensor(kOp, "uniforms", arguments.uniforms, {{"batch", batch}, {"nodes + 1", nodes + 1}}, {kFloat32}, tokens);
  const SamplingMethod method = check_method(kOp, arguments.method);
  const auto &log_probs = arguments.draft_log_probs, &rows = arguments.draft_rows;
  if (is_sampled(method)) {
    if (!log_probs || !rows) {
      refuse(kOp, "method ", arguments.method, " must have draft_log_probs and draft_rows, got None");
    }
    const int64_t vocab = arguments.target_logits.size(2);
    check_tensor(kOp, "draft_log_probs", *log_probs, {{"q_rows"}, {"vocab", vocab}}, {kFloat32}, tokens);
    check_tensor(kOp, "draft_rows", *rows, {{"batch", batch}, {"nodes", nodes}}, {kInt64}, tokens);
  } else if (log_probs || rows) {
    refuse(kOp, "method ", arguments.method, " takes no draft_log_probs or draft_rows, got a Tensor");
  }
  check_tensor(kOp, "temperature", arguments.temperature, {{"batch", batch}}, {kFloat32}, tokens);
  if (arguments.top_k) check_tensor(kOp, "top_k", *arguments.top_k, {{"batch", batch}}, {kInt64}, tokens);
  if (arguments.top_p) check_tensor(kOp, "top_p", *arguments.top_p, {{"batch", batch}}, {kFloat32}, tokens);
  if (arguments.min_p) check_tensor(kOp, "min_p", *arguments.min_p, {{"batch", batch}}, {kFloat32}, tokens);
  check_share(kOp, "epsilon", arguments.epsilon);
  check_share(kOp, "delta", arguments.delta);
  return method;
}

}  // namespace mtp_ext
