// Runs the marginalization kernels on awkward sizes, with inputs and outputs that end where their allocation ends, so
// that AddressSanitizer sees a read or write one element too far, and UndefinedBehaviorSanitizer the rest.
//
// Besides, two laws that need no oracle: probabilities add up to one, and the best token of the mixture is what the
// top k says.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

#include "cpu/joint_topk.h"
#include "cpu/mixture.h"
#include "cpu/mixture_topk.h"
#include "cpu/normalizer.h"
#include "cpu/select_branches.h"
#include "cpu/simd.h"

namespace mtp_ext {
namespace {

void require(bool holds, const char* what, int64_t branches, int64_t vocab) {
  if (holds) return;
  std::fprintf(stderr, "%s: branches=%lld vocab=%lld\n", what, static_cast<long long>(branches),
               static_cast<long long>(vocab));
  std::exit(1);
}

// An allocation of exactly this size; std::vector may round its capacity up.
template <typename T>
std::unique_ptr<T[]> exactly(int64_t count) {
  return std::make_unique<T[]>(count);
}

template <typename scalar_t>
scalar_t from_float(float value);
template <>
float from_float(float value) {
  return value;
}
template <>
bfloat16 from_float(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return {static_cast<uint16_t>(bits >> 16)};
}
template <>
float16 from_float(float value) {  // nearest of a few: zero, infinities, NaN and +-1 to 2
  if (value != value) return {0x7e00};
  if (std::isinf(value)) return {static_cast<uint16_t>(value < 0 ? 0xfc00 : 0x7c00)};
  if (value == 0) return {0};
  const auto fraction = static_cast<uint16_t>(std::fabs(value) * 64) & 0x3ff;
  return {static_cast<uint16_t>((value < 0 ? 0xbc00 : 0x3c00) | fraction)};
}

enum class Values { kOrdinary, kEqual, kHuge, kImpossible, kDead, kBroken };

template <typename scalar_t>
struct Row {
  int64_t branches, vocab, stride;
  std::unique_ptr<scalar_t[]> logits;
  std::unique_ptr<float[]> log_weights;

  Row(int64_t branches, int64_t vocab, Values values)
      : branches(branches),
        vocab(vocab),
        stride(vocab + 3),
        logits(exactly<scalar_t>((branches - 1) * stride + vocab)),
        log_weights(exactly<float>(branches)) {
    uint32_t state = 1;
    for (int64_t i = 0; i < (branches - 1) * stride + vocab; ++i) {
      state = state * 1664525u + 1013904223u;
      float value = static_cast<float>(state >> 8) * 0x1p-20f - 8.0f;
      if (values == Values::kEqual) value = 1.0f;
      if (values == Values::kHuge) value *= 1e37f;
      if (values == Values::kImpossible && i % 3 == 0) value = -kInfinity;
      logits[i] = from_float<scalar_t>(value);
    }
    for (int64_t b = 0; b < branches; ++b) log_weights[b] = -0.1f * static_cast<float>(b % 7);
    if (values == Values::kDead) log_weights[branches - 1] = -kInfinity;
    if (values == Values::kBroken) logits[(branches - 1) * stride + vocab - 1] = from_float<scalar_t>(kNaN);
  }
};

// The first pass: the normaliser of every branch, and the largest logit of each of its blocks.
template <typename scalar_t>
std::vector<Normalizer> normalize(const Row<scalar_t>& row, float scale, float* block_maxima) {
  std::vector<Normalizer> normalizers;
  const int64_t chunks = chunk_count(row.vocab);
  for (int64_t b = 0; b < row.branches; ++b) {
    const auto sums = exactly<ChunkSum>(chunks);
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      const int64_t column = chunk * kChunk;
      float* maxima = block_maxima ? block_maxima + b * block_count(row.vocab) + column / kBlock : nullptr;
      sums[chunk] =
          sum_chunk(row.logits.get() + b * row.stride + column, std::min(kChunk, row.vocab - column), scale, maxima);
    }
    normalizers.push_back(join_chunks(sums.get(), chunks, scale));
  }
  return normalizers;
}

template <typename scalar_t>
void run(int64_t branches, int64_t vocab, Values values) {
  const Row<scalar_t> row(branches, vocab, values);
  const BranchLayout layout{1, branches, vocab, 0, row.stride, nullptr};
  normalize(row, kLog2E, nullptr);
  const auto block_maxima = exactly<float>(branches * block_count(vocab));
  const std::vector<Normalizer> normalizers = normalize(row, kLog2E, block_maxima.get());
  const Mixture mixture = make_mixture(layout, 0, branches, row.log_weights.get(), normalizers.data(), true);
  require((mixture.state == RowState::kBroken) == (values == Values::kBroken), "state", branches, vocab);

  const auto mixed = exactly<float>(vocab);
  for (int64_t column = 0; column < vocab; column += kTile) {
    mix_columns(row.logits.get(), mixture, column, std::min(kTile, vocab - column), mixed.get() + column);
  }
  mix_column(row.logits.get(), mixture, vocab - 1);
  double total = 0;
  for (int64_t column = 0; column < vocab; ++column) total += std::exp(static_cast<double>(mixed[column]));
  const bool ordinary = mixture.state == RowState::kOrdinary;
  require(!ordinary || std::fabs(total - 1) < 1e-4, "sum", branches, vocab);

  for (const int64_t k : {int64_t{1}, std::min<int64_t>(vocab, 70), vocab}) {
    const auto log_probs = exactly<float>(k);
    const auto tokens = exactly<int64_t>(k);
    MixtureTopK topk(mixture, block_maxima.get(), vocab, k);
    for (int64_t share = 0; share < MixtureTopK::share_count(k); ++share) topk.mix_first(row.logits.get(), share);
    topk.agree();
    for (int64_t share = 0; share < MixtureTopK::share_count(k); ++share) topk.mix_rest(row.logits.get(), share);
    topk.write(log_probs.get(), tokens.get());
    require(!ordinary || log_probs[0] == *std::max_element(mixed.get(), mixed.get() + vocab), "top", branches, vocab);
    const auto pair_branches = exactly<int64_t>(k);
    joint_topk_row(row.logits.get(), mixture, block_maxima.get(), vocab, k, log_probs.get(), pair_branches.get(),
                   tokens.get());
  }

  for (const double temperature : {1.0, 1e-3, 1e3}) {
    const auto scale = static_cast<float>(1 / (temperature * kLn2));
    const std::vector<Normalizer> scaled = normalize(row, scale, block_maxima.get());
    for (const int64_t width : {int64_t{1}, vocab + 1}) {
      const auto log_probs = exactly<float>(width);
      const auto tokens = exactly<int64_t>(width);
      const float* maxima = block_maxima.get() + (branches - 1) * block_count(vocab);
      const scalar_t* logits = row.logits.get() + (branches - 1) * row.stride;
      for (const double top_p : {0.9, 1.0}) {
        select_row(logits, vocab, scaled.back(), maxima, {top_p, width, scale}, tokens.get(), log_probs.get());
      }
    }
  }
}

template <typename scalar_t>
void run_all() {
  for (const Values values :
       {Values::kOrdinary, Values::kEqual, Values::kHuge, Values::kImpossible, Values::kDead, Values::kBroken}) {
    if (values == Values::kHuge && sizeof(scalar_t) == 2 && !std::is_same_v<scalar_t, bfloat16>) continue;
    // One more and one fewer than a register, a pair of them, a block, a tile and a chunk.
    for (const int64_t vocab : {2, 7, 15, 16, 17, 31, 33, 63, 65, 511, 513, 2047, 2049})
      run<scalar_t>(2, vocab, values);
    run<scalar_t>(2, 8193, values);
    run<scalar_t>(9, 67, values);
    run<scalar_t>(300, 17, values);
    if (values != Values::kImpossible && values != Values::kDead) run<scalar_t>(1, 1, values);
  }
}

}  // namespace
}  // namespace mtp_ext

int main() {
  mtp_ext::run_all<float>();
  mtp_ext::run_all<mtp_ext::bfloat16>();
  mtp_ext::run_all<mtp_ext::float16>();
}
