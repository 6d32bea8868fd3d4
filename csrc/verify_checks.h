// What every back end of verification checks: shapes and dtypes, and the numbers that are no tensors.
// mtp_ext/ops/verify_greedy.py and verify_sampling.py say the same sentences.
#pragma once

#include <optional>
#include <string>
#include <tuple>

#include "checks.h"
#include "sampling_method.h"

namespace mtp_ext {

// nodes [batch, nodes], lengths [batch] and next_tokens [batch].
using Accepted = std::tuple<Tensor, Tensor, Tensor>;

// target [batch, nodes] int64: the target's most probable tokens; or its logits [batch, nodes, vocab].
void check_verify_greedy(const Tensor& tokens, const Tensor& parents, const Tensor& target);

// What verify_sampling takes. The settings are of each request: [batch].
struct SamplingArguments {
  const Tensor& tokens;         // int64 [batch, nodes]
  const Tensor& parents;        // the same
  const Tensor& target_logits;  // [batch, nodes, vocab]
  const Tensor& uniforms;       // float32 [batch, nodes + 1]
  const std::string& method;
  const std::optional<Tensor>& draft_log_probs;  // float32 [q_rows, vocab]
  const std::optional<Tensor>& draft_rows;       // int64 [batch, nodes]
  const Tensor& temperature;                     // float32
  const std::optional<Tensor>& top_k;            // int64
  const std::optional<Tensor>& top_p;            // float32
  const std::optional<Tensor>& min_p;            // float32
  double epsilon, delta;
};

SamplingMethod check_verify_sampling(const SamplingArguments& arguments);

}  // namespace mtp_ext
