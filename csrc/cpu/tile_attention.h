// One tile of query rows against blocks of keys: scores, weights relative to the largest score so far (the online
// softmax of FlashAttention, arXiv 2205.14135), and the values they weigh. Three ways, by how much work a key is:
// matrix products of packed blocks, a handful of rows from the keys' side, and single pairs where a node sees next to
// nothing.
#pragma once

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "few_rows.h"
#include "gemm_tile.h"
#include "key_mask.h"
#include "tree_attention.h"

namespace mtp_ext {

inline constexpr int64_t kTreeBlock =
    64;  // nodes, one word of ancestor bits: siblings see nothing outside their diagonal
inline constexpr int64_t kLargestDim = 256;
inline constexpr int64_t kColumnStep = 32;  // of the last, shorter block: products come in few sizes
inline constexpr int64_t kFewKeys =
    128;  // a block from the keys' side: the scores of all heads stay in the first cache

// Rows first <= r < first + keys of the cache, multiplied `columns` >= keys at a time.
struct KeyRange {
  int64_t first, keys, columns;
};

template <typename scalar_t, typename operand_t>
class TileAttention {
 public:
  TileAttention(const TreeAttention& attention, const scalar_t* key, const scalar_t* value, const int32_t* depths,
                const AttentionTile& tile, const PartialState& state, AttentionWorkspace& workspace)
      : a_(attention),
        key_(key),
        value_(value),
        depths_(depths + tile.b * attention.nodes),
        tile_(tile),
        state_(state),
        rows_((tile.end - tile.begin) * attention.group()),
        key_width_(words_of<operand_t>(attention.head_dim) * 4 / static_cast<int64_t>(sizeof(operand_t))),
        value_width_(round_up(attention.value_dim, 16)),
        mask_(tile.end - tile.begin),
        queries_(workspace.queries.get<operand_t>(heads() * rows_ * key_width_)),
        scores_(workspace.scores.get<float>(score_count())),
        converted_(workspace.converted.get<operand_t>(kKeyBlock * (attention.head_dim + 1))) {
    if constexpr (std::is_same_v<operand_t, float>) {
      weights_ = scores_;
    } else {
      weights_ = workspace.weights.get<operand_t>(score_count());
    }
    if (!few_rows()) {
      keys_ = workspace.keys.get<operand_t>(kKeyBlock * key_width_);
      values_ = workspace.values.get<operand_t>(kKeyBlock * value_width_);
    }
    std::fill_n(state.out, heads() * rows_ * value_width_, 0.0f);
    std::fill_n(state.maximum, heads() * rows_, -kInfinity);
    std::fill_n(state.sum, heads() * rows_, 0.0f);
  }

  void load_queries(const scalar_t* query) {
    for (int64_t row = 0; row < heads() * rows_; ++row) {
      const int64_t node = tile_.begin + row % rows_ / a_.group();
      const int64_t head = (tile_.head_begin + row / rows_) * a_.group() + row % a_.group();
      const scalar_t* source =
          query + tile_.b * a_.query_stride.batch + node * a_.query_stride.node + head * a_.query_stride.head;
      operand_t* target = queries_ + row * key_width_;
      if constexpr (std::is_same_v<operand_t, float>) {
        if (few_rows()) {
          widen_query(source, a_.head_dim, target);
          continue;
        }
      }
      const operand_t* operand = as_operand(source, a_.head_dim, converted_);
      std::copy(operand, operand + a_.head_dim, target);
      std::fill(target + a_.head_dim, target + key_width_, operand_t{});
    }
  }

  // The part's share of the prefix.
  void attend_prefix(int64_t begin, int64_t end) {
    begin = std::max(begin, first_visible());
    const int64_t block = few_rows() ? kFewKeys : kKeyBlock;
    for (int64_t first = begin; first < end; first += block) {
      const int64_t keys = std::min(block, end - first);
      mask_.clear(keys);
      for (int64_t i = 0; i < tile_.end - tile_.begin; ++i) {
        const int32_t depth = depths_[tile_.begin + i];
        int64_t low = a_.start(tile_.b);
        if (a_.window > 0) low = std::max(low, a_.prefix(tile_.b) + depth - a_.window + 1);
        mask_.set_range(i, depth < 0 ? keys : low - first, keys);
      }
      if (mask_.none()) continue;
      const KeyRange range{first, keys, round_up(keys, kColumnStep)};
      if (few_rows()) {
        const int64_t next = first + block;
        attend_few_rows(range, 0, heads(), std::min(kRowsAhead, end - next));
      } else {
        for (int64_t head = 0; head < heads(); ++head) attend(range, head);
      }
    }
  }

  // The nodes that the tile's nodes see.
  void attend_nodes() {
    const int64_t block = a_.ancestors ? kTreeBlock : few_rows() ? kFewKeys : kKeyBlock;
    const int64_t hidden = a_.start(tile_.b) - a_.prefix(tile_.b);  // nodes before the first visible row
    for (int64_t first = 0; first < a_.count(tile_.b); first += block) {
      const int64_t keys = std::min(block, a_.count(tile_.b) - first);
      mask_.clear(keys);
      for (int64_t i = 0; i < tile_.end - tile_.begin; ++i) {
        const int64_t node = tile_.begin + i;
        if (depths_[node] < 0) {
          mask_.set_range(i, keys, keys);
        } else if (a_.ancestors) {
          const uint64_t shown = KeyMask::ones(keys) & ~KeyMask::ones(hidden - first);
          mask_.set_word(i, 0, ancestors_in_window(node, first / 64) & shown);
        } else {
          const int64_t low = a_.window > 0 ? std::max(hidden, node - a_.window + 1) : hidden;
          mask_.set_range(i, low - first, std::min(node + 1 - first, keys));
        }
      }
      if (mask_.none()) continue;
      const KeyRange range{a_.prefix(tile_.b) + first, keys, round_up(keys, kColumnStep)};
      const bool sparse = a_.ancestors && mask_.pairs() <= tile_.end - tile_.begin;  // siblings see themselves
      for (int64_t head = 0; head < heads(); ++head) {
        if (few_rows()) {
          attend_few_rows(range, head, head + 1, 0);
        } else if (sparse) {
          attend_pairs(range, head);
        } else {
          attend(range, head);
        }
      }
    }
  }

 private:
  int64_t heads() const { return tile_.head_end - tile_.head_begin; }
  bool few_rows() const { return takes_few_rows<operand_t>(rows_); }
  int64_t score_count() const { return (few_rows() ? heads() * kFewKeys : kKeyBlock) * rows_; }

  // The first row that any node sees.
  int64_t first_visible() const {
    int64_t first = a_.start(tile_.b);
    if (a_.window > 0) {
      const int32_t least = *std::min_element(depths_ + tile_.begin, depths_ + tile_.end);
      first = std::max(first, a_.prefix(tile_.b) + std::max(least, 0) - a_.window + 1);
    }
    return std::max<int64_t>(first, 0);
  }

  uint64_t ancestors_in_window(int64_t node, int64_t word) const {
    uint64_t bits = static_cast<uint64_t>(
        a_.ancestors[tile_.b * a_.ancestors_stride.batch + node * a_.ancestors_stride.node + word]);
    if (a_.window == 0) return bits;
    for (uint64_t rest = bits; rest; rest &= rest - 1) {
      const int64_t ancestor = word * 64 + __builtin_ctzll(rest);
      if (depths_[node] - depths_[ancestor] >= a_.window) bits &= ~(rest & -rest);
    }
    return bits;
  }

  const scalar_t* key_row(int64_t row, int64_t head) const {
    return key_ + a_.pages.page(tile_.b, row) * a_.key_stride.page + a_.pages.place(row) * a_.key_stride.row +
           (tile_.head_begin + head) * a_.key_stride.head;
  }
  const scalar_t* value_row(int64_t row, int64_t head) const {
    return value_ + a_.pages.page(tile_.b, row) * a_.value_stride.page + a_.pages.place(row) * a_.value_stride.row +
           (tile_.head_begin + head) * a_.value_stride.head;
  }

  // Where the block's keys and values lie.
  void gather(const KeyRange& range, int64_t head) {
    static const scalar_t kZeros[kLargestDim] = {};  // for a value that nobody sees and that may be NaN: 0 * NaN is NaN
    for (int64_t i = 0; i < range.keys; ++i) {
      key_rows_[i] = key_row(range.first + i, head);
      value_rows_[i] = mask_.seen(i) ? value_row(range.first + i, head) : kZeros;
    }
    if (range.keys < range.columns) value_rows_[range.keys] = kZeros;  // the partner of the last of an odd number
  }

  // One head against a block of keys, by matrix products.
  void attend(const KeyRange& range, int64_t head) {
    gather(range, head);
    // Only the rows that see any of the keys, in sixteens: products come in few sizes, each of which is compiled once.
    const int64_t first = mask_.first_node() * a_.group() / 16 * 16;
    const int64_t rows = std::min(rows_, round_up((mask_.last_node() + 1) * a_.group(), 16)) - first;
    const int64_t base = head * rows_ + first;
    pack_keys(key_rows_, range.keys, a_.head_dim, range.columns, converted_, keys_);
    gemm({rows, range.columns, key_width_, key_width_, range.columns, range.columns}, false,
         queries_ + base * key_width_, keys_, scores_);
    weigh_rows(base, rows, range);
    pack_values(value_rows_, range.keys, range.columns, a_.value_dim, value_width_, values_);
    gemm({rows, value_width_, range.columns, range.columns, value_width_, value_width_}, true, weights_, values_,
         state_.out + base * value_width_);
  }

  // Some heads against a block of keys, from the keys' side: a row of the cache is read once, for all of them. The
  // first `next` keys after the block are fetched.
  void attend_few_rows(const KeyRange& range, int64_t head_begin, int64_t head_end, int64_t next) {
    if constexpr (takes_few_rows<operand_t>(0)) {
      gather(range, head_begin);
      const scalar_t* next_rows[kRowsAhead];
      for (int64_t i = 0; i < next; ++i) next_rows[i] = key_row(range.first + range.keys + i, head_begin);
      const RowsOfCache<scalar_t> keys{key_rows_, range.keys, a_.key_stride.head, a_.head_dim};
      const RowsOfCache<scalar_t> values{value_rows_, range.keys, a_.value_stride.head, a_.value_dim};
      const RowsOfCache<scalar_t> next_keys{next_rows, next, a_.key_stride.head, a_.head_dim};
      const FewRows shape{head_end - head_begin, rows_, range.keys, range.columns};
      const int64_t base = head_begin * rows_;
      dot_keys(shape, queries_ + base * key_width_, key_width_, keys, values, scores_);
      weigh_rows(base, shape.heads * rows_, range);
      add_values(shape, weights_, values, next_keys, state_.out + base * value_width_, value_width_);
    }
  }

  // One head against a block of keys of which each node sees next to none: pair by pair, sixteen rows at a time.
  void attend_pairs(const KeyRange& range, int64_t head) {
    const int64_t first_row = mask_.first_node() * a_.group();
    const int64_t last_row = (mask_.last_node() + 1) * a_.group();
    for (int64_t first = first_row; first < last_row; first += 16) {
      const int64_t rows = std::min<int64_t>(16, last_row - first);
      uint64_t rest[16] = {};
      for (int64_t i = 0; i < rows; ++i) rest[i] = mask_.word((first + i) / a_.group(), 0);
      while (std::any_of(rest, rest + rows, [](uint64_t word) { return word != 0; })) {
        int64_t keys[16];
        for (int64_t i = 0; i < rows; ++i) {
          keys[i] = rest[i] ? range.first + __builtin_ctzll(rest[i]) : -1;
          rest[i] &= rest[i] - (rest[i] != 0);
        }
        add_pairs(head, first, rows, keys);
      }
    }
  }

  // Row first + i meets row keys[i] of the cache; -1: none.
  void add_pairs(int64_t head, int64_t first, int64_t rows, const int64_t* keys) {
    const int64_t base = head * rows_ + first;
    Floats products[16] = {};
    for (int64_t i = 0; i < rows; ++i) {
      if (keys[i] < 0) continue;
      const scalar_t* key = key_row(keys[i], head);
      const operand_t* query = queries_ + (base + i) * key_width_;
      int64_t d = 0;
      for (; d + kLanes <= a_.head_dim; d += kLanes) products[i] = fma(load(query + d), load(key + d), products[i]);
      if (d < a_.head_dim) {
        const int64_t count = a_.head_dim - d;
        products[i] = fma(load_partial(query + d, count, 0), load_partial(key + d, count, 0), products[i]);
      }
    }
    float scores[16], old[16], next[16];
    sums(products, scores);
    for (int64_t i = 0; i < 16; ++i) {
      const bool sees = i < rows && keys[i] >= 0;
      scores[i] = sees ? scores[i] : -kInfinity;
      old[i] = i < rows ? state_.maximum[base + i] : -kInfinity;
    }
    float kept[16], weights[16];
    for (int64_t i = 0; i < 16; i += kLanes) {
      Floats score = load(scores + i) * broadcast(a_.softcap > 0 ? a_.scale / a_.softcap : a_.scale * kLog2E);
      if (a_.softcap > 0) score = tanh(score) * (a_.softcap * kLog2E);
      score = keep(score, sees_mask(rows, keys, i), -kInfinity);
      const Floats maximum_now = max(score, load(old + i));
      const Floats reference = maximum_now > -kInfinity ? maximum_now : Floats{};
      store(next + i, maximum_now);
      store(kept + i, exp2(load(old + i) - reference));
      store(weights + i, exp2(score - reference));
    }
    for (int64_t i = 0; i < rows; ++i) {
      if (keys[i] < 0) continue;
      const int64_t row = base + i;
      state_.maximum[row] = next[i];
      state_.sum[row] = state_.sum[row] * kept[i] + weights[i];
      float* out = state_.out + row * value_width_;
      const scalar_t* value = value_row(keys[i], head);
      int64_t d = 0;
      for (; d + kLanes <= a_.value_dim; d += kLanes) {
        store(out + d, fma(load(value + d), broadcast(weights[i]), load(out + d) * broadcast(kept[i])));
      }
      for (; d < a_.value_dim; ++d) out[d] = out[d] * kept[i] + weights[i] * to_float(value[d]);
    }
  }

  static uint32_t sees_mask(int64_t rows, const int64_t* keys, int64_t first) {
    uint32_t mask = 0;
    for (int64_t i = first; i < std::min(rows, first + kLanes); ++i) mask |= uint32_t{keys[i] >= 0} << (i - first);
    return mask;
  }

  void weigh_rows(int64_t first, int64_t rows, const KeyRange& range) {
    for (int64_t i = 0; i < rows; ++i) {
      weigh(first + i, range, scores_ + i * range.columns, weights_ + i * range.columns);
    }
  }

  // A row's scores become weights 2^(score - maximum), in octaves, and its state moves to the new maximum.
  void weigh(int64_t row, const KeyRange& range, float* scores, operand_t* weights) {
    const int64_t node = row % rows_ / a_.group();
    for (int64_t i = range.keys; i < range.columns; ++i) scores[i] = -kInfinity;
    float scale = a_.scale * kLog2E;                  // what turns a stored score into octaves
    const bool later = a_.softcap == 0 && scale > 0;  // whether scores can be stored as they are
    Floats largest = broadcast(-kInfinity);
    if (later && mask_.all()) {
      for (int64_t i = 0; i < range.columns; i += kLanes) largest = max(load(scores + i), largest);
    } else {
      const Floats inner = broadcast(a_.softcap > 0 ? a_.scale / a_.softcap : scale);
      for (int64_t i = 0; i < range.columns; i += kLanes) {
        Floats score = load(scores + i);
        if (!later) score = score * inner;
        if (a_.softcap > 0) score = tanh(score) * (a_.softcap * kLog2E);
        score = keep(score, mask_.lanes(node, i), -kInfinity);
        store(scores + i, score);
        largest = max(score, largest);
      }
    }
    if (!later) scale = 1;
    const float before = state_.maximum[row];
    const float maximum_now = std::max(before, maximum(largest) * scale);
    const Floats reference = broadcast(maximum_now == -kInfinity ? 0.0f : -maximum_now);
    Floats total{};
    for (int64_t i = 0; i < range.columns; i += kLanes) {
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
  const scalar_t* key_;
  const scalar_t* value_;
  const int32_t* depths_;
  const AttentionTile& tile_;
  const PartialState& state_;
  int64_t rows_;  // a head
  int64_t key_width_, value_width_;
  KeyMask mask_;
  const scalar_t* key_rows_[kKeyBlock];
  const scalar_t* value_rows_[kKeyBlock];
  operand_t* queries_;           // [heads, rows, key_width]
  float* scores_;                // [rows, columns], or [heads, rows, columns] where there are few
  operand_t* converted_;         // rows in the type of the operands
  operand_t* weights_;           // of the same shape; float32 ones take the place of the scores
  operand_t* keys_ = nullptr;    // packed
  operand_t* values_ = nullptr;  // packed
};

}  // namespace mtp_ext
