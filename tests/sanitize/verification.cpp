// Runs the kernels of verification with every method, truncation and dtype, on sizes that end within a register and
// beside a chunk, and on logits that leave the ordinary path. The sanitizers judge; here only that a path is one.
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "cpu/argmax.h"
#include "cpu/simd.h"
#include "cpu/verify_sampling.h"

namespace {

using namespace mtp_ext;

std::mt19937 generator(0);

float uniform() { return std::uniform_real_distribution<float>(0, 0.999f)(generator); }

void require(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "%s\n", what);
  std::exit(1);
}

const ParallelFor kSerial = [](int64_t items, int64_t, const std::function<void(int64_t)>& body) {
  for (int64_t i = 0; i < items; ++i) body(i);
};

const TargetLimits kLimits[] = {
    {kLog2E, 1 << 30, 1, 0},    {kLog2E, 5, 1, 0},
    {kLog2E, 1 << 30, 0.9, 0},  {kLog2E, 1 << 30, 1, 0.05},
    {kLog2E, 40, 0.95, 0.001},  {kLog2E * 1e30f, 3, 0.5, 0},
    {kLog2E * 1e-30f, 7, 1, 1}, {kLog2E, 1 << 30, 0.99999, 1e-9},
};

template <typename scalar_t>
void verify_all(int64_t vocab, int64_t nodes, int64_t reach, float spoil) {
  std::vector<int64_t> tokens(nodes), parents(nodes, -1), draft_rows(nodes);
  std::vector<scalar_t> logits(nodes * vocab);  // exactly as large as it must be
  std::vector<float> draft_log_probs(nodes * vocab), uniforms(nodes + 1);
  for (scalar_t& logit : logits) store_number(&logit, 8 * uniform() - 4);
  if (spoil != 0) store_number(&logits[generator() % logits.size()], spoil);
  for (float& log_prob : draft_log_probs) log_prob = -8 * uniform();
  for (float& each : uniforms) each = uniform();
  for (int64_t i = 0; i < nodes; ++i) {
    tokens[i] = static_cast<int64_t>(generator() % vocab);
    if (i > 0) parents[i] = std::max<int64_t>(0, i - 1 - static_cast<int64_t>(generator() % reach));
    draft_rows[i] = std::max<int64_t>(0, parents[i]);
  }
  const DraftTree tree(tokens.data(), parents.data(), nodes);
  const auto check = [&](const Verdict& verdict) {
    require(!verdict.path.empty() && verdict.path[0] == 0, "a path must start at the root");
    for (size_t i = 1; i < verdict.path.size(); ++i) {
      require(parents[verdict.path[i]] == verdict.path[i - 1], "a path must follow the parents");
    }
    require(verdict.next_token >= -1 && verdict.next_token < vocab, "the next token must be one");
  };
  check(follow_best(tree, [&](int64_t node) { return argmax(logits.data() + node * vocab, vocab, kSerial); }));
  for (const TargetLimits& limits : kLimits) {
    const SamplingRequest<scalar_t> request{
        vocab,  vocab, vocab, logits.data(), uniforms.data(), draft_log_probs.data(), draft_rows.data(),
        limits, 0.09,  0.3};
    for (const auto method : {SamplingMethod::kTargetOnly, SamplingMethod::kWithoutReplacement,
                              SamplingMethod::kTraversal, SamplingMethod::kTypical}) {
      check(verify_by_sampling(method, tree, request, kSerial));
    }
  }
}

}  // namespace

int main() {
  for (const int64_t vocab : {1, 2, 3, 15, 17, 511, 513, 8193}) {
    for (const float spoil : {0.0f, kNaN, kInfinity, -kInfinity}) {
      const int64_t nodes = vocab > 8000 ? 4 : 9;
      verify_all<float>(vocab, nodes, 3, spoil);
      verify_all<bfloat16>(vocab, nodes, 1, spoil);
      verify_all<float16>(vocab, nodes, nodes, spoil);
    }
  }
}
