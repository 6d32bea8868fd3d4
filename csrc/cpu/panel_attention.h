// Attention of a tile of many query rows, which are the lanes of registers, in panels: scores, weights relative to the
// largest score so far (the online softmax of FlashAttention, arXiv 2205.14135), and the values that they weigh.
#pragma once

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "brgemm.h"
#include "packed_rows.h"
#include "panel_products.h"
#include "tile_rows.h"

namespace mtp_ext {

template <typename scalar_t, typename operand_t>
class PanelAttention {
 public:
  PanelAttention(const TreeAttention& attention, const TileRows<scalar_t>& rows, const PartialState& state,
                 AttentionWorkspace& workspace)
      : a_(attention),
        rows_(rows),
        state_(state),
        padded_(round_up(rows_.rows(), 16)),
        key_words_(words_of<operand_t>(a_.head_dim)),
        value_width_(round_up(a_.value_dim, 16)),
        queries_(workspace.queries.get<float>(rows_.heads() * padded_ * key_words_)),
        scores_(workspace.scores.get<float>(kLargestDim * kPanelRows)),
        converted_keys_(workspace.keys.get<operand_t>(kKeyBlock * round_up(std::max(a_.head_dim, a_.value_dim), 2))),
        values_(workspace.values.get<operand_t>(kKeyBlock * value_width_)),
        turned_values_(a_.matrix_tiles ? workspace.weights.get<operand_t>(kKeyBlock * value_width_) : nullptr) {}

  // Queries of a panel are [word, lane].
  void load_queries(const scalar_t* query) {
    for (int64_t head = 0; head < rows_.heads(); ++head) {
      for_panels(padded_, [&](int64_t first, auto vectors) {
        constexpr int64_t kRows = decltype(vectors)::value * kLanes;
        const int64_t count = std::clamp<int64_t>(rows_.rows() - first, 0, kRows);
        const float* words[kRows];
        for (int64_t i = 0; i < count; ++i) {
          words[i] = words_at(rows_.query_row(query, head, first + i), a_.head_dim, converted_keys_, i);
        }
        transpose_words(words, count, key_words_, kRows, queries_of(head, first));
      });
    }
  }

  // All heads against a block of keys.
  void attend(const KeyRange& range) {
    if (range.siblings) return attend_pairs(range);
    for (int64_t head = 0; head < rows_.heads(); ++head) attend(range, head);
  }

  // Puts the rows of the state one after the other.
  void finish() {
    for (int64_t head = 0; head < rows_.heads(); ++head) {
      for_panels(padded_, [&](int64_t first, auto vectors) {
        constexpr int64_t kRows = decltype(vectors)::value * kLanes;
        float* out = out_of(head, first);
        std::copy_n(out, value_width_ * kRows, scores_);
        const float* words[kLargestDim];
        for (int64_t d = 0; d < value_width_; ++d) words[d] = scores_ + d * kRows;
        transpose_words(words, value_width_, kRows, value_width_, out);
      });
    }
    if (a_.matrix_tiles) brgemm_done(true);
  }

 private:
  // Every row meets next to none of the keys: lane by lane, a key of its own.
  void attend_pairs(const KeyRange& range) {
    for (int64_t head = 0; head < rows_.heads(); ++head) {
      for_panels(padded_, [&](int64_t first, auto vectors) {
        constexpr int64_t kRows = decltype(vectors)::value * kLanes;
        for (int64_t lane = 0; lane < kRows; lane += 16) attend_pairs(range, head, first, lane, kRows);
      });
    }
  }

  static constexpr int64_t kRowsInPlace = kPanelRows;  // that read values where they lie; for more, they are copied
  static constexpr int64_t kTileKeys = 32;             // matrix tiles multiply few sizes: each is compiled once
  static constexpr int64_t kNumbersAWord = sizeof(float) / sizeof(operand_t);
  static constexpr bool kPairs = kNumbersAWord == 2;

  float* queries_of(int64_t head, int64_t row) { return queries_ + (head * padded_ + row) * key_words_; }
  float* out_of(int64_t head, int64_t row) { return state_.out + (head * padded_ + row) * value_width_; }

  // A row's words: where it lies, or a converted and padded copy, the i-th in `storage`.
  static const float* words_at(const scalar_t* row, int64_t dim, operand_t* storage, int64_t i) {
    storage += i * round_up(dim, 2);
    const operand_t* operands = as_operand(row, dim, storage);
    if constexpr (kPairs) {
      if (dim % 2) {
        std::copy_n(operands, dim, storage);
        storage[dim] = operand_t{};
        operands = storage;
      }
    }
    return reinterpret_cast<const float*>(operands);
  }

  // One head. While a block is multiplied, memory brings the next.
  void attend(const KeyRange& range, int64_t head) {
    gather(range, head);
    const bool last_head = head + 1 == rows_.heads();
    const int64_t next_first = range.first + (last_head ? range.keys : 0);
    const int64_t next_keys = last_head ? std::min(range.next, kKeyBlock) : range.keys;
    const int64_t next_head = last_head ? 0 : head + 1;
    int64_t keys_fetched = 0, values_fetched = 0;
    const auto fetch_keys = [&](int64_t count) {
      for (const int64_t end = std::min(keys_fetched + count, next_keys); keys_fetched < end; ++keys_fetched) {
        prefetch_row(rows_.key_row(next_first + keys_fetched, next_head), a_.head_dim);
      }
    };
    const auto fetch_values = [&](int64_t count) {
      for (const int64_t end = std::min(values_fetched + count, next_keys); values_fetched < end; ++values_fetched) {
        prefetch_row(rows_.value_row(next_first + values_fetched, next_head), a_.value_dim);
      }
    };
    for_panels(padded_, [&](int64_t first, auto vectors) {
      constexpr int64_t kVectors = decltype(vectors)::value, kRows = kVectors * kLanes;
      if (first + kRows <= rows_.mask.first_node() * a_.group()) return;
      if (first >= (rows_.mask.last_node() + 1) * a_.group()) return;
      multiply_keys<kVectors>(range, queries_of(head, first), fetch_keys);
      float kept[kRows];
      weigh<kVectors>(range, head * padded_ + first, first, kept);
      multiply_values<kVectors>(range, kept, out_of(head, first), fetch_values);
    });
  }

  template <int64_t kVectors, typename Fetch>
  void multiply_keys(const KeyRange& range, const float* queries, const Fetch& fetch) {
    constexpr int64_t kRows = kVectors * kLanes;
    if constexpr (kPairs) {
      if (a_.matrix_tiles) {
        fetch(range.keys);
        return brgemm({round_up(range.keys, kTileKeys), kRows, 2 * key_words_, 2 * key_words_, kRows, kRows}, false,
                      converted_keys_, reinterpret_cast<const bfloat16*>(queries), scores_);
      }
    }
    for (int64_t key = 0; key < range.keys; key += keys_of_tile(kVectors)) {
      fetch(keys_of_tile(kVectors));
      score_tile<operand_t, kVectors>(key_rows_ + key, key_words_, queries, scores_ + key * kRows);
    }
  }

  template <int64_t kVectors, typename Fetch>
  void multiply_values(const KeyRange& range, const float* kept, float* out, const Fetch& fetch) {
    constexpr int64_t kRows = kVectors * kLanes;
    const int64_t words = ceil_div(range.keys, kNumbersAWord);
    if constexpr (kPairs) {
      if (a_.matrix_tiles) {
        fetch(range.keys);
        const int64_t keys = round_up(range.keys, kTileKeys);
        std::fill(scores_ + words * kRows, scores_ + keys / 2 * kRows, 0.0f);
        for (int64_t i = 0; i < value_width_ * kRows; i += kLanes) {
          store(out + i, load(out + i) * load(kept + i % kRows));
        }
        return brgemm({value_width_, kRows, keys, keys, kRows, kRows}, true, turned_values_,
                      reinterpret_cast<const bfloat16*>(scores_), out);
      }
    }
    constexpr int64_t kNumbers = numbers_of_tile(kVectors);
    int64_t number = 0;
    for (; number + kNumbers <= value_width_; number += kNumbers) {
      fetch(ceil_div(range.keys * kNumbers, value_width_));
      value_tile<operand_t, kVectors, kNumbers>(value_rows_, words, number, scores_, kept, out + number * kRows);
    }
    for (; number < value_width_; number += 2) {
      value_tile<operand_t, kVectors, 2>(value_rows_, words, number, scores_, kept, out + number * kRows);
    }
  }

  // Where the words of the block's keys and values lie. Matrix tiles take copies: of keys row by row, of values turned.
  void gather(const KeyRange& range, int64_t head) {
    for (int64_t i = 0; i < range.keys; ++i) {
      key_rows_[i] = words_at(rows_.key_row(range.first + i, head), a_.head_dim, converted_keys_, i);
    }
    std::fill_n(key_rows_ + range.keys, kMostTileKeys, kZeros<float>);
    const scalar_t* values[kKeyBlock];
    for (int64_t i = 0; i < range.keys; ++i) {
      values[i] = rows_.mask.seen(i) ? rows_.value_row(range.first + i, head) : kZeros<scalar_t>;
    }
    if constexpr (std::is_same_v<scalar_t, float>) {
      if (a_.value_dim == value_width_ && padded_ <= kRowsInPlace) {
        std::copy_n(values, range.keys, value_rows_);
        return;
      }
    }
    pack_rows(values, range.keys, round_up(range.keys, kNumbersAWord), a_.value_dim, value_width_, values_);
    const int64_t words = ceil_div(range.keys, kNumbersAWord);
    for (int64_t i = 0; i < words; ++i) value_rows_[i] = reinterpret_cast<const float*>(values_) + i * value_width_;
    if constexpr (kPairs) {
      if (!a_.matrix_tiles) return;
      float* keys = reinterpret_cast<float*>(converted_keys_);
      for (int64_t i = 0; i < range.keys; ++i) {
        if (key_rows_[i] != keys + i * key_words_) std::copy_n(key_rows_[i], key_words_, keys + i * key_words_);
      }
      const int64_t padded = round_up(range.keys, kTileKeys);
      std::fill(keys + range.keys * key_words_, keys + padded * key_words_, 0.0f);
      transpose_words(value_rows_, words, value_width_, padded / 2, reinterpret_cast<float*>(turned_values_));
    }
  }

  // A panel's scores [key, lane] become weights 2^(score - maximum), in octaves, and its rows' states move to the new
  // maximum; what was summed up before is to be multiplied by `kept`.
  template <int64_t kVectors>
  void weigh(const KeyRange& range, int64_t row, int64_t first, float* kept) {
    float* scores = scores_;
    constexpr int64_t kRows = kVectors * kLanes;
    float scale = a_.scale * kLog2E;                  // what turns a stored score into octaves
    const bool later = a_.softcap == 0 && scale > 0;  // whether scores can be stored as they are
    Floats largest[kVectors];
    unrolled<kVectors>([&](auto v) { largest[v] = broadcast(-kInfinity); });
    if (later && rows_.mask.all()) {
      for (int64_t key = 0; key < range.keys; ++key) {
        unrolled<kVectors>([&](auto v) { largest[v] = max(load(scores + key * kRows + v * kLanes), largest[v]); });
      }
    } else {
      const Floats inner = broadcast(a_.softcap > 0 ? a_.scale / a_.softcap : scale);
      int32_t bits[kRows];
      for (int64_t key = 0; key < range.keys; ++key) {
        if (key % 32 == 0) lane_bits(first, kRows, key, bits);
        const int32_t bit = static_cast<int32_t>(uint32_t{1} << key % 32);
        for (int64_t lane = 0; lane < kRows; lane += kLanes) {
          Floats score = load(scores + key * kRows + lane);
          if (!later) score = score * inner;
          if (a_.softcap > 0) score = tanh(score) * (a_.softcap * kLog2E);
          Integers seen;
          std::memcpy(&seen, bits + lane, sizeof(seen));
          score = (seen & bit) != 0 ? score : broadcast(-kInfinity);
          store(scores + key * kRows + lane, score);
          largest[lane / kLanes] = max(score, largest[lane / kLanes]);
        }
      }
    }
    if (!later) scale = 1;
    Floats reference[kVectors], totals[2][kVectors];
    unrolled<kVectors>([&](auto v) {
      const Floats before = load(state_.maximum + row + v * kLanes);
      const Floats now = max(largest[v] * broadcast(scale), before);
      reference[v] = now > broadcast(-kInfinity) ? -now : Floats{};
      store(state_.maximum + row + v * kLanes, now);
      store(kept + v * kLanes, exp2(before + reference[v]));
      totals[0][v] = totals[1][v] = Floats{};
    });
    int64_t key = 0;
    const auto weight = [&](int64_t key, auto v) {
      return exp2(fma(load(scores + key * kRows + v * kLanes), broadcast(scale), reference[v]));
    };
    for (; key + 2 <= range.keys; key += 2) {
      unrolled<kVectors>([&](auto v) {
        const Floats even = weight(key, v), odd = weight(key + 1, v);
        totals[0][v] = totals[0][v] + even;
        totals[1][v] = totals[1][v] + odd;
        store_weights(scores, key, kRows, v * kLanes, even, odd);
      });
    }
    if (key < range.keys) {
      unrolled<kVectors>([&](auto v) {
        const Floats even = weight(key, v);
        totals[0][v] = totals[0][v] + even;
        store_weights(scores, key, kRows, v * kLanes, even, Floats{});
      });
    }
    unrolled<kVectors>([&](auto v) {
      float* sum = state_.sum + row + v * kLanes;
      store(sum, fma(load(sum), load(kept + v * kLanes), totals[0][v] + totals[1][v]));
    });
  }

  // Of two keys, in the place of their scores.
  static void store_weights(float* weights, int64_t key, int64_t rows, int64_t lane, Floats even, Floats odd) {
    if constexpr (kPairs) {
      store(weights + key / 2 * rows + lane, Products<operand_t>::pairs(even, odd));
    } else {
      store(weights + key * rows + lane, even);
      store(weights + (key + 1) * rows + lane, odd);
    }
  }

  // Of each row of a panel, which of 32 keys it sees.
  void lane_bits(int64_t first, int64_t rows, int64_t key, int32_t* bits) const {
    for (int64_t i = 0; i < rows; ++i) {
      const int64_t row = first + i;
      const uint64_t word = row < rows_.rows() ? rows_.mask.word(row / a_.group(), key / 64) : 0;
      bits[i] = static_cast<int32_t>(word >> key % 64);
    }
  }

  // Sixteen lanes of a panel of `stride` rows.
  void attend_pairs(const KeyRange& range, int64_t head, int64_t first, int64_t lane, int64_t stride) {
    uint64_t rest[16] = {};
    for (int64_t i = 0; i < 16; ++i) {
      const int64_t row = first + lane + i;
      if (row < rows_.rows()) rest[i] = rows_.mask.word(row / a_.group(), 0);
    }
    while (std::any_of(rest, rest + 16, [](uint64_t word) { return word != 0; })) {
      int64_t keys[16];
      for (int64_t i = 0; i < 16; ++i) {
        keys[i] = rest[i] ? range.first + __builtin_ctzll(rest[i]) : -1;
        rest[i] &= rest[i] - (rest[i] != 0);
      }
      add_pairs(head, first, lane, stride, keys);
    }
  }

  // Lane i meets row keys[i] of the cache; -1: none.
  void add_pairs(int64_t head, int64_t first, int64_t lane, int64_t stride, const int64_t* keys) {
    const float* words[16];
    int32_t sees[16];
    for (int64_t i = 0; i < 16; ++i) {
      const scalar_t* key = keys[i] < 0 ? kZeros<scalar_t> : rows_.key_row(keys[i], head);
      words[i] = words_at(key, a_.head_dim, converted_keys_, i);
      sees[i] = keys[i] < 0 ? 0 : -1;
    }
    float* turned = scores_;  // [word, 16]
    transpose_words(words, 16, key_words_, 16, turned);
    const float* queries = queries_of(head, first) + lane;
    Floats kept[16 / kLanes], weights[16 / kLanes];
    for (int64_t i = 0; i < 16; i += kLanes) {
      Floats even{}, odd{};
      const auto multiply = [&](int64_t w, Floats sum) {
        return Products<operand_t>::add(load(queries + w * stride + i), load(turned + w * 16 + i), sum);
      };
      int64_t w = 0;
      for (; w + 2 <= key_words_; w += 2) {
        even = multiply(w, even);
        odd = multiply(w + 1, odd);
      }
      if (w < key_words_) even = multiply(w, even);
      Floats score = (even + odd) * broadcast(a_.softcap > 0 ? a_.scale / a_.softcap : a_.scale * kLog2E);
      if (a_.softcap > 0) score = tanh(score) * (a_.softcap * kLog2E);
      Integers seen;
      std::memcpy(&seen, sees + i, sizeof(seen));
      score = seen != 0 ? score : broadcast(-kInfinity);
      const int64_t row = head * padded_ + first + lane + i;
      const Floats before = load(state_.maximum + row);
      const Floats now = max(score, before);
      const Floats reference = now > broadcast(-kInfinity) ? -now : Floats{};
      const Floats keeps = exp2(before + reference), weight = exp2(score + reference);
      store(state_.maximum + row, now);
      store(state_.sum + row, fma(load(state_.sum + row), keeps, weight));
      kept[i / kLanes] = keeps;
      weights[i / kLanes] = weight;
    }
    for (int64_t i = 0; i < 16; ++i) {
      const scalar_t* value = keys[i] < 0 ? kZeros<scalar_t> : rows_.value_row(keys[i], head);
      words[i] = words_at(value, a_.value_dim, converted_keys_, i);
    }
    transpose_words(words, 16, words_of<operand_t>(a_.value_dim), 16, turned);
    float* out = out_of(head, first) + lane;
    for (int64_t d = 0; d < a_.value_dim; ++d) {
      for (int64_t i = 0; i < 16; i += kLanes) {
        Floats value = load(turned + (kPairs ? d / 2 : d) * 16 + i);
        if (kPairs)
          value = (Floats)(d % 2 ? (Integers)value & static_cast<int32_t>(0xffff0000) : (Integers)value << 16);
        float* target = out + d * stride + i;
        store(target, fma(value, weights[i / kLanes], load(target) * kept[i / kLanes]));
      }
    }
  }

  const TreeAttention& a_;
  const TileRows<scalar_t>& rows_;
  const PartialState& state_;
  int64_t padded_;  // rows of a KV head
  int64_t key_words_, value_width_;
  float* queries_;                                    // [heads, panel, word, lane]
  float* scores_;                                     // [key, lane]; pairs of weights take their place
  operand_t* converted_keys_;                         // rows in the type of the operands
  operand_t* values_;                                 // the same, of two keys in pairs
  operand_t* turned_values_;                          // [number, key], for matrix tiles
  const float* key_rows_[kKeyBlock + kMostTileKeys];  // and zeros, to the end of a tile
  const float* value_rows_[kKeyBlock];
};

}  // namespace mtp_ext
