#include <tuple>

#include "../dispatch.h"
#include "../select_checks.h"
#include "parallel.h"
#include "select_branches.h"

namespace mtp_ext {
namespace {

constexpr const char* kOp = "select_branches";
std::tuple<Tensor, Tensor, Tensor, Tensor> select_branches_cpu(const Tensor& logits, double top_p,
                                                               const std::optional<int64_t> top_k, double temperature,
                                                               int64_t max_branches) {
  const NucleusLimits limits = check_select_branches(logits, top_p, top_k, temperature, max_branches);
  const int64_t rows = logits.size(0);
  const int64_t vocab = logits.size(1);
  const int64_t stride = logits.stride(0);
  const Tensor tokens = new_empty(logits, {rows, limits.width}, kInt64);
  const Tensor log_probs = new_empty(logits, {rows, limits.width}, kFloat32);
  const Tensor counts = new_empty(logits, {rows}, kInt64);
  const Tensor dropped_mass = new_empty(logits, {rows}, kFloat32);
  int64_t* token_data = tokens.mutable_data_ptr<int64_t>();
  float* log_prob_data = log_probs.mutable_data_ptr<float>();
  int64_t* count_data = counts.mutable_data_ptr<int64_t>();
  float* dropped_data = dropped_mass.mutable_data_ptr<float>();
  const int64_t chunks = chunk_count(vocab);
  const int64_t blocks = block_count(vocab);
  std::vector<ChunkSum> sums(rows * chunks);
  std::vector<float> maxima(rows * blocks);
  dispatch_logits(kOp, logits, [&](const auto* data) {
    parallel_items(rows * chunks, std::min(kChunk, vocab), [&](int64_t i) {
      const int64_t row = i / chunks;
      const int64_t column = i % chunks * kChunk;
      sums[i] = sum_chunk(data + row * stride + column, std::min(kChunk, vocab - column), limits.scale,
                          maxima.data() + row * blocks + column / kBlock);
    });
    parallel_items(rows, vocab, [&](int64_t row) {
      const Normalizer normalizer = join_chunks(sums.data() + row * chunks, chunks, limits.scale);
      const Nucleus nucleus = select_row(data + row * stride, vocab, normalizer, maxima.data() + row * blocks, limits,
                                         token_data + row * limits.width, log_prob_data + row * limits.width);
      count_data[row] = nucleus.count;
      dropped_data[row] = nucleus.dropped_mass;
    });
  });
  return {tokens, log_probs, counts, dropped_mass};
}

}  // namespace
}  // namespace mtp_ext

STABLE_TORCH_LIBRARY_IMPL(mtp_ext, CPU, m) { m.impl("select_branches", TORCH_BOX(&mtp_ext::select_branches_cpu)); }
