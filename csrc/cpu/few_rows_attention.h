// Attention of a tile of a few query rows, from the keys' side (few_rows.h).
#pragma once

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "few_rows.h"
#include "packed_rows.h"
#include "tile_rows.h"

namespace mtp_ext {

template <typename scalar_t, typename operand_t>
class FewRowsAttention {
 public:
  FewRowsAttention(const TreeAttention& attention, const TileRows<scalar_t>& rows, const PartialState& state,
                   AttentionWorkspace& workspace)
      : a_(attention),
        tile_(rows),
        state_(state),
        rows_(rows.rows()),
        key_width_(words_of<operand_t>(a_.head_dim) * 4 / static_cast<int64_t>(sizeof(operand_t))),
        value_width_(round_up(a_.value_dim, 16)),
        queries_(workspace.queries.get<operand_t>(rows.heads() * rows_ * key_width_)),
        scores_(workspace.scores.get<float>(rows.heads() * kKeyBlock * rows_)) {
    if constexpr (std::is_same_v<operand_t, float>) {
      weights_ = scores_;
    } else {
      weights_ = workspace.weights.get<operand_t>(rows.heads() * kKeyBlock * rows_);
    }
  }

  void load_queries(const scalar_t* query) {
    for (int64_t row = 0; row < tile_.heads() * rows_; ++row) {
      const scalar_t* source = tile_.query_row(query, row / rows_, row % rows_);
      operand_t* target = queries_ + row * key_width_;
      if constexpr (std::is_same_v<operand_t, float>) {
        widen_query(source, a_.head_dim, target);
      } else {
        std::copy(source, source + a_.head_dim, target);
        std::fill(target + a_.head_dim, target + key_width_, operand_t{});
      }
    }
  }

  // All heads against a block of keys: a row of the cache is read once, for all of them. Not where zeros stand for
  // values that nobody sees, or for the partner of the last of an odd number: they are as long as one head's.
  void attend(const KeyRange& range) {
    const bool whole = tile_.mask.all_seen() && range.keys % Products<operand_t>::kKeys == 0;
    const int64_t together = whole ? tile_.heads() : 1;
    for (int64_t head = 0; head < tile_.heads(); head += together) attend(range, head, together);
  }

  void finish() {}

 private:
  void attend(const KeyRange& range, int64_t head, int64_t heads) {
    gather(range, head);
    const int64_t next = heads == tile_.heads() ? std::min(range.next, kRowsAhead) : 0;
    const scalar_t* next_rows[kRowsAhead];
    for (int64_t i = 0; i < next; ++i) next_rows[i] = tile_.key_row(range.first + range.keys + i, head);
    const RowsOfCache<scalar_t> keys{key_rows_, range.keys, a_.key_stride.head, a_.head_dim};
    const RowsOfCache<scalar_t> values{value_rows_, range.keys, a_.value_stride.head, a_.value_dim};
    const RowsOfCache<scalar_t> next_keys{next_rows, next, a_.key_stride.head, a_.head_dim};
    const FewRows shape{heads, rows_, range.keys, round_up(range.keys, kLanes)};
    const int64_t base = head * rows_;
    dot_keys(shape, queries_ + base * key_width_, key_width_, keys, values, scores_);
    for (int64_t i = 0; i < heads * rows_; ++i) {
      weigh(base + i, shape, scores_ + i * shape.columns, weights_ + i * shape.columns);
    }
    add_values(shape, weights_, values, next_keys, state_.out + base * value_width_, value_width_);
  }

  // Where the block's keys and values lie.
  void gather(const KeyRange& range, int64_t head) {
    for (int64_t i = 0; i < range.keys; ++i) {
      key_rows_[i] = tile_.key_row(range.first + i, head);
      value_rows_[i] = tile_.mask.seen(i) ? tile_.value_row(range.first + i, head) : kZeros<scalar_t>;
    }
    if (range.keys % Products<operand_t>::kKeys) value_rows_[range.keys] = kZeros<scalar_t>;
  }

  // A row's scores become weights 2^(score - maximum), in octaves, and its state moves to the new maximum.
  void weigh(int64_t row, const FewRows& shape, float* scores, operand_t* weights) {
    const int64_t node = row % rows_ / a_.group();
    for (int64_t i = shape.keys; i < shape.columns; ++i) scores[i] = -kInfinity;
    float scale = a_.scale * kLog2E;                  // what turns a stored score into octaves
    const bool later = a_.softcap == 0 && scale > 0;  // whether scores can be stored as they are
    Floats largest = broadcast(-kInfinity);
    if (later && tile_.mask.all()) {
      for (int64_t i = 0; i < shape.columns; i += kLanes) largest = max(load(scores + i), largest);
    } else {
      const Floats inner = broadcast(a_.softcap > 0 ? a_.scale / a_.softcap : scale);
      for (int64_t i = 0; i < shape.columns; i += kLanes) {
        Floats score = load(scores + i);
        if (!later) score = score * inner;
        if (a_.softcap > 0) score = tanh(score) * (a_.softcap * kLog2E);
        score = keep(score, tile_.mask.lanes(node, i), -kInfinity);
        store(scores + i, score);
        largest = max(score, largest);
      }
    }
    if (!later) scale = 1;
    const float before = state_.maximum[row];
    const float maximum_now = std::max(before, maximum(largest) * scale);
    const Floats reference = broadcast(maximum_now == -kInfinity ? 0.0f : -maximum_now);
    Floats total{};
    for (int64_t i = 0; i < shape.columns; i += kLanes) {
      const Floats weight = exp2(fma(load(scores + i), broadcast(scale), reference));
      total = total + weight;
      store(weights + i, weight);
    }
    if (maximum_now > before) {
      state_.maximum[row] = maximum_now;
      if (before > -kInfinity) {  // else there is nothing yet
        const float shrink = std::exp2(before - maximum_now);
        float* out = state_.out + row * value_width_;
        for (int64_t d = 0; d < value_width_; d += kLanes) store(out + d, load(out + d) * broadcast(shrink));
        state_.sum[row] *= shrink;
      }
    }
    state_.sum[row] += sum(total);
  }

  const TreeAttention& a_;
  const TileRows<scalar_t>& tile_;
  const PartialState& state_;
  int64_t rows_;  // a head
  int64_t key_width_, value_width_;
  operand_t* queries_;  // [heads, rows, key_width]
  float* scores_;       // [heads, rows, columns]
  operand_t* weights_;  // of the same shape; float32 ones take the place of the scores
  const scalar_t* key_rows_[kKeyBlock];
  const scalar_t* value_rows_[kKeyBlock];
};

}  // namespace mtp_ext
