// What the bindings of all marginalization ops share: the batch as they received it, the first pass over it, and the
// mixtures of whole rows.
#pragma once

#include <optional>
#include <vector>

#include "../branch_layout.h"
#include "../checks.h"
#include "../number_types.h"
#include "mixture.h"
#include "normalizer.h"
#include "parallel.h"

namespace mtp_ext {

inline constexpr int64_t kBatchLogitBytes = 8 << 20;  // read twice: the second time from the last-level cache

// The checked arguments of a marginalization op.
struct BranchBatch {
  BranchLayout layout;
  std::vector<float> log_weights;  // by flat number
};

BranchBatch check_branches(const char* op, const Tensor& branch_logits, const Tensor& branch_log_probs,
                           const std::optional<Tensor>& indptr);

// Rows row_begin to row_end after the first pass.
struct BranchPass {
  int64_t row_begin, row_end;
  int64_t first_branch;  // flat number
  int64_t branches;
  std::vector<Mixture> mixtures;    // by row - row_begin
  std::vector<float> block_maxima;  // [branches, block_count(vocab)], where asked for

  int64_t rows() const { return row_end - row_begin; }
  const float* row_maxima(const BranchLayout& layout, int64_t row) const {
    return block_maxima.data() + (layout.begin(row_begin + row) - first_branch) * block_count(layout.vocab);
  }
  int64_t branches_per_row() const { return ceil_div(branches, rows()); }
};

// Calls body(pass) for batches of rows, small enough for their logits to stay in the cache between the
// passes. The cut depends on the shape alone.
template <typename scalar_t, typename Body>
void for_each_pass(const scalar_t* logits, const BranchBatch& batch, bool renormalize, bool with_maxima, Body&& body) {
  const BranchLayout& layout = batch.layout;
  const int64_t chunks = chunk_count(layout.vocab);
  const int64_t blocks = block_count(layout.vocab);
  const int64_t branch_bytes = std::max<int64_t>(1, layout.vocab * static_cast<int64_t>(sizeof(scalar_t)));
  std::vector<ChunkSum> sums;
  std::vector<Normalizer> normalizers;
  for (int64_t row = 0; row < layout.rows;) {
    BranchPass pass{row, row + 1, layout.begin(row), 0, {}, {}};
    while (pass.row_end < layout.rows &&
           (layout.end(pass.row_end) - pass.first_branch) * branch_bytes <= kBatchLogitBytes) {
      ++pass.row_end;
    }
    row = pass.row_end;
    const int64_t branches = layout.end(pass.row_end - 1) - pass.first_branch;
    pass.branches = branches;
    sums.assign(branches * chunks, {});
    normalizers.assign(branches, {});
    if (with_maxima) pass.block_maxima.assign(branches * blocks, 0.0f);
    parallel_items(branches * chunks, std::min(kChunk, layout.vocab), [&](int64_t i) {
      const int64_t branch = pass.first_branch + i / chunks;
      if (batch.log_weights[branch] == -kInfinity) return;  // not read
      const int64_t column = i % chunks * kChunk;
      float* maxima = with_maxima ? pass.block_maxima.data() + i / chunks * blocks + column / kBlock : nullptr;
      sums[i] =
          sum_chunk(logits + layout.offset(branch) + column, std::min(kChunk, layout.vocab - column), kLog2E, maxima);
    });
    for (int64_t i = 0; i < branches; ++i) {
      normalizers[i] = join_chunks(sums.data() + i * chunks, chunks, kLog2E);
    }
    for (int64_t r = pass.row_begin; r < pass.row_end; ++r) {
      const int64_t begin = layout.begin(r);
      pass.mixtures.push_back(make_mixture(layout, begin, layout.end(r), batch.log_weights.data() + begin,
                                           normalizers.data() + (begin - pass.first_branch), renormalize));
    }
    body(pass);
  }
}

// Writes the mixtures of some rows, [rows, vocab]; a row has so many branches on average.
template <typename scalar_t>
void mix_rows(const scalar_t* logits, const std::vector<Mixture>& mixtures, int64_t branches_per_row, int64_t vocab,
              float* out) {
  const int64_t tiles = ceil_div(vocab, kTile);
  parallel_items(static_cast<int64_t>(mixtures.size()) * tiles, kTile * branches_per_row, [&](int64_t i) {
    const int64_t row = i / tiles, column = i % tiles * kTile;
    mix_columns(logits, mixtures[row], column, std::min(kTile, vocab - column), out + row * vocab + column);
  });
}

}  // namespace mtp_ext
