#include "../branch_checks.h"
#include "../dispatch.h"
#include "normalizer.h"
#include "parallel.h"

namespace mtp_ext {
namespace {

constexpr const char* kOp = "branch_normalizers";

// The center and the rest, in nats; an empty sum, which join_chunks calls broken, is -inf.
void write_normalizer(const ChunkSum* sums, int64_t chunks, double* out) {
  bool empty = true;
  for (int64_t i = 0; i < chunks; ++i) empty = empty && sums[i].sum == 0;
  const Normalizer normalizer = empty ? Normalizer{0, -kInfinity} : join_chunks(sums, chunks, kLog2E);
  out[0] = normalizer.center;
  out[1] = normalizer.octaves / kLog2E;
}

Tensor branch_normalizers_cpu(const Tensor& branch_logits) {
  const BranchLayout layout = check_flat_branches(kOp, branch_logits);
  const int64_t branches = layout.branches, vocab = layout.vocab, stride = layout.branch_stride;
  const int64_t chunks = chunk_count(vocab);
  std::vector<ChunkSum> sums(branches * chunks);
  const Tensor out = new_empty(branch_logits, {branches, 2}, ScalarType::Double);
  double* data = out.mutable_data_ptr<double>();
  dispatch_logits(kOp, branch_logits, [&](const auto* logits) {
    parallel_items(branches * chunks, std::min(kChunk, vocab), [&](int64_t i) {
      const int64_t column = i % chunks * kChunk;
      const auto* chunk = logits + i / chunks * stride + column;
      sums[i] = sum_chunk(chunk, std::min(kChunk, vocab - column), kLog2E, nullptr);
    });
  });
  for (int64_t i = 0; i < branches; ++i) write_normalizer(sums.data() + i * chunks, chunks, data + 2 * i);
  return out;
}

}  // namespace
}  // namespace mtp_ext

STABLE_TORCH_LIBRARY_IMPL(mtp_ext, CPU, m) {
  m.impl("branch_normalizers", TORCH_BOX(&mtp_ext::branch_normalizers_cpu));
}
