#include <memory>
#include <type_traits>

#include "few_rows.h"
#include "gemm_tile.h"
#include "key_block.h"
#include "tree_attention.h"

namespace mtp_ext {
namespace {

constexpr int64_t kTreeBlock = 64;  // nodes, one word of ancestor bits: siblings see nothing outside their diagonal
constexpr int64_t kLargestDim = 256;
constexpr int64_t kColumnStep = 32;  // of the last, shorter block: products come in few sizes
constexpr int64_t kMaskWords = kKeyBlock / 64;

// Which keys of a block each node of a tile sees.
class BlockMask {
 public:
  explicit BlockMask(int64_t nodes) : words_(nodes * kMaskWords) {}

  // Nodes see the keys low <= i < high of a block of `keys`.
  void clear() {
    std::fill(words_.begin(), words_.end(), 0);
    first_ = static_cast<int64_t>(words_.size());
    last_ = -1;
    all_ = true;
    std::fill_n(seen_, kMaskWords, 0);
  }
  void set_range(int64_t node, int64_t low, int64_t high, int64_t keys) {
    for (int64_t w = 0; w < kMaskWords; ++w) {
      set_word(node, w, ones(high - 64 * w) & ~ones(low - 64 * w), ones(keys - 64 * w));
    }
  }
  // Word w of the block; `whole` has a bit for each of its keys.
  void set_word(int64_t node, int64_t w, uint64_t word, uint64_t whole) {
    words_[node * kMaskWords + w] = word;
    all_ = all_ && word == whole;
    if (!word) return;
    seen_[w] |= word;
    first_ = std::min(first_, node);
    last_ = std::max(last_, node);
  }
  // Whether any node sees the key.
  bool seen(int64_t key) const { return seen_[key / 64] >> key % 64 & 1; }
  // The first and the last node that sees any of the keys.
  int64_t first() const { return first_; }
  int64_t last() const { return last_; }
  bool all() const { return all_; }
  uint32_t lanes(int64_t node, int64_t key) const {
    return static_cast<uint32_t>(words_[node * kMaskWords + key / 64] >> key % 64) & kAllLanes;
  }

  static uint64_t ones(int64_t count) {  // the lowest `count` bits
    return count <= 0 ? 0 : count >= 64 ? ~uint64_t{0} : (uint64_t{1} << count) - 1;
  }

 private:
  std::vector<uint64_t> words_;
  uint64_t seen_[kMaskWords] = {};
  int64_t first_ = 0;
  int64_t last_ = -1;
  bool all_ = true;
};

// Rows r0 <= r < r0 + keys of the cache, multiplied `columns` >= keys at a time.
struct KeyRange {
  int64_t first, keys, columns;
};

template <typename scalar_t, typename operand_t>
class TileAttention {
 public:
  TileAttention(const TreeAttention& attention, const scalar_t* key, const scalar_t* value, const int32_t* depths,
                const AttentionTile& tile, const PartialState& state)
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
        queries_(new operand_t[rows_ * key_width_]),
        scores_(new float[rows_ * kKeyBlock]) {
    if (!few_rows()) {
      if (!std::is_same_v<operand_t, float>) weights_.reset(new operand_t[rows_ * kKeyBlock]);
      keys_.reset(new operand_t[kKeyBlock * key_width_]);
      values_.reset(new operand_t[kKeyBlock * value_width_]);
      scratch_.reset(new operand_t[kKeyBlock * (attention.head_dim + 1)]);
    }
    std::fill_n(state.out, rows_ * value_width_, 0.0f);
    std::fill_n(state.maximum, rows_, -kInfinity);
    std::fill_n(state.sum, rows_, 0.0f);
  }

  void load_queries(const scalar_t* query) {
    for (int64_t row = 0; row < rows_; ++row) {
      const int64_t node = tile_.begin + row / a_.group();
      const int64_t head = tile_.kv_head * a_.group() + row % a_.group();
      const scalar_t* source =
          query + tile_.b * a_.query_stride.batch + node * a_.query_stride.node + head * a_.query_stride.head;
      operand_t* target = queries_.get() + row * key_width_;
      if constexpr (std::is_same_v<operand_t, float>) {
        if (few_rows()) {
          widen_query(source, a_.head_dim, target);
          continue;
        }
      }
      const operand_t* operand = as_operand(source, a_.head_dim, scratch_.get());
      std::copy(operand, operand + a_.head_dim, target);
      std::fill(target + a_.head_dim, target + key_width_, operand_t{});
    }
  }

  // The part's share of the prefix.
  void attend_prefix(int64_t begin, int64_t end) {
    for (int64_t first = begin; first < end; first += kKeyBlock) {
      const int64_t keys = std::min(kKeyBlock, end - first);
      mask_.clear();
      for (int64_t i = 0; i < tile_.end - tile_.begin; ++i) {
        const int32_t depth = depths_[tile_.begin + i];
        int64_t low = a_.start(tile_.b);
        if (a_.window > 0) low = std::max(low, a_.prefix(tile_.b) + depth - a_.window + 1);
        mask_.set_range(i, depth < 0 ? keys : low - first, keys, keys);
      }
      attend({first, keys, round_up(keys, kColumnStep)});
    }
  }

  // The nodes that the tile's nodes see.
  void attend_nodes() {
    const int64_t block = a_.ancestors ? kTreeBlock : kKeyBlock;
    for (int64_t first = 0; first < a_.count(tile_.b); first += block) {
      const int64_t keys = std::min(block, a_.count(tile_.b) - first);
      mask_.clear();
      for (int64_t i = 0; i < tile_.end - tile_.begin; ++i) {
        const int64_t node = tile_.begin + i;
        if (depths_[node] < 0) {
          mask_.set_range(i, keys, keys, keys);
        } else if (a_.ancestors) {
          mask_.set_word(i, 0, ancestors_in_window(node, first / 64) & BlockMask::ones(keys), BlockMask::ones(keys));
        } else {
          const int64_t low = a_.window > 0 ? node - a_.window + 1 : 0;
          mask_.set_range(i, low - first, std::min(node + 1 - first, keys), keys);
        }
      }
      attend({a_.prefix(tile_.b) + first, keys, round_up(keys, kColumnStep)});
    }
  }

 private:
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

  void attend(const KeyRange& range) {
    if (mask_.last() < 0) return;
    static const scalar_t kZeros[kLargestDim] = {};  // for a value that nobody sees and that may be NaN: 0 * NaN is NaN
    const scalar_t* key_rows[kKeyBlock];
    const scalar_t* value_rows[kKeyBlock];
    for (int64_t i = 0; i < range.keys; ++i) {
      const int64_t page = a_.page(tile_.b, range.first + i);
      const int64_t row = a_.row(range.first + i);
      key_rows[i] = key_ + page * a_.key_stride.page + row * a_.key_stride.row + tile_.kv_head * a_.key_stride.head;
      value_rows[i] = kZeros;
      if (!mask_.seen(i)) continue;
      value_rows[i] =
          value_ + page * a_.value_stride.page + row * a_.value_stride.row + tile_.kv_head * a_.value_stride.head;
    }
    if constexpr (std::is_same_v<operand_t, float>) {
      if (few_rows()) return attend_few_rows(range, key_rows, value_rows);
    }
    // Only the rows that see any of the keys, in sixteens: products come in few sizes, each of which is compiled once.
    const int64_t first = mask_.first() * a_.group() / 16 * 16;
    const int64_t rows = std::min(rows_, round_up((mask_.last() + 1) * a_.group(), 16)) - first;
    pack_keys(key_rows, range.keys, a_.head_dim, range.columns, scratch_.get(), keys_.get());
    gemm({rows, range.columns, key_width_, key_width_, range.columns, range.columns}, false,
         queries_.get() + first * key_width_, keys_.get(), scores_.get() + first * range.columns);
    for (int64_t row = first; row < first + rows; ++row) weigh(row, range);
    pack_values(value_rows, range.keys, range.columns, a_.value_dim, value_width_, values_.get());
    gemm({rows, value_width_, range.columns, range.columns, value_width_, value_width_}, true,
         weights() + first * range.columns, values_.get(), state_.out + first * value_width_);
  }

  bool few_rows() const { return rows_ <= kFewRows; }

  void attend_few_rows(const KeyRange& range, const scalar_t* const* key_rows, const scalar_t* const* value_rows) {
    for_row_groups(rows_, [&](int64_t row, auto rows) {
      dot_keys<decltype(rows)::value>(queries_.get() + row * key_width_, key_width_, key_rows, range.keys, a_.head_dim,
                                      scores_.get() + row * range.columns, range.columns);
    });
    for (int64_t row = 0; row < rows_; ++row) weigh(row, range);
    for_row_groups(rows_, [&](int64_t row, auto rows) {
      add_values<decltype(rows)::value>(scores_.get() + row * range.columns, range.columns, value_rows, range.keys,
                                        a_.value_dim, state_.out + row * value_width_, value_width_);
    });
  }

  const operand_t* weights() const {
    if constexpr (std::is_same_v<operand_t, float>) {
      return scores_.get();
    } else {
      return weights_.get();
    }
  }

  // Scores become weights 2^(score - maximum), in octaves, and the row's state moves to the new maximum.
  void weigh(int64_t row, const KeyRange& range) {
    float* scores = scores_.get() + row * range.columns;
    const int64_t node = row / a_.group();
    const bool masked = !mask_.all() || range.keys < range.columns;
    float scale = a_.scale * kLog2E;  // what turns a stored score into octaves
    Floats largest = broadcast(-kInfinity);
    if (masked || a_.softcap > 0 || scale < 0) {
      const Floats inner = broadcast(a_.softcap > 0 ? a_.scale / a_.softcap : scale);
      for (int64_t i = 0; i < range.columns; i += kLanes) {
        Floats score = load(scores + i) * inner;
        if (a_.softcap > 0) score = tanh(score) * (a_.softcap * kLog2E);
        if (masked) score = keep(score, mask_.lanes(node, i), -kInfinity);
        store(scores + i, score);
        largest = max(score, largest);
      }
      scale = 1;
    } else {
      for (int64_t i = 0; i < range.columns; i += kLanes) largest = max(load(scores + i), largest);
    }
    const float maximum_now = std::max(state_.maximum[row], maximum(largest) * scale);
    const Floats reference = broadcast(maximum_now == -kInfinity ? 0.0f : -maximum_now);
    Floats total{};
    for (int64_t i = 0; i < range.columns; i += kLanes) {
      const Floats weight = exp2(fma(load(scores + i), broadcast(scale), reference));
      total = total + weight;
      if constexpr (std::is_same_v<operand_t, float>) {
        store(scores + i, weight);
      } else {
        store(weights_.get() + row * range.columns + i, weight);
      }
    }
    if (maximum_now > state_.maximum[row]) {
      const float shrink = std::exp2(state_.maximum[row] - maximum_now);
      float* out = state_.out + row * value_width_;
      for (int64_t d = 0; d < value_width_; d += kLanes) store(out + d, load(out + d) * broadcast(shrink));
      state_.sum[row] *= shrink;
      state_.maximum[row] = maximum_now;
    }
    state_.sum[row] += sum(total);
  }

  const TreeAttention& a_;
  const scalar_t* key_;
  const scalar_t* value_;
  const int32_t* depths_;
  const AttentionTile& tile_;
  const PartialState& state_;
  int64_t rows_, key_width_, value_width_;
  BlockMask mask_;
  // Every number is written before it is read; zeroing them first took a sixth of the time of a short task.
  std::unique_ptr<operand_t[]> queries_;  // [rows, key_width]
  std::unique_ptr<float[]> scores_;       // [rows, columns]
  std::unique_ptr<operand_t[]> weights_;  // [rows, columns], where the operands are not float32
  std::unique_ptr<operand_t[]> keys_;     // packed
  std::unique_ptr<operand_t[]> values_;   // packed
  std::unique_ptr<operand_t[]> scratch_;
};

template <typename operand_t, typename scalar_t>
void attend_part_as(const TreeAttention& a, const scalar_t* query, const scalar_t* key, const scalar_t* value,
                    const int32_t* depths, const AttentionTile& tile, int64_t part, const PartialState& state) {
  const int64_t prefix = a.prefix(tile.b);
  const int64_t parts = part_count(prefix);
  const int64_t part_rows = round_up(ceil_div(prefix, parts), kKeyBlock);
  TileAttention<scalar_t, operand_t> attention(a, key, value, depths, tile, state);
  attention.load_queries(query);
  attention.attend_prefix(std::min(prefix, part * part_rows), std::min(prefix, (part + 1) * part_rows));
  if (part == parts - 1) attention.attend_nodes();
  gemm_done(std::is_same_v<operand_t, bfloat16>);
}

}  // namespace

int64_t nodes_per_tile(const TreeAttention& attention) {
  return std::max<int64_t>(1, kTileRows / std::max<int64_t>(1, attention.group()));
}

int64_t part_count(int64_t prefix) { return std::max<int64_t>(1, std::min(kMostParts, ceil_div(prefix, kPartRows))); }

std::vector<int32_t> node_depths(const TreeAttention& a) {
  std::vector<int32_t> depths(a.batch * a.nodes, -1);
  for (int64_t b = 0; b < a.batch; ++b) {
    for (int64_t node = 0; node < a.count(b); ++node) {
      int32_t depth = static_cast<int32_t>(node);
      if (a.ancestors) {
        const int64_t* words = a.ancestors + b * a.ancestors_stride.batch + node * a.ancestors_stride.node;
        depth = -1;
        for (int64_t w = 0; w < a.words; ++w) depth += __builtin_popcountll(static_cast<uint64_t>(words[w]));
      }
      depths[b * a.nodes + node] = depth;
    }
  }
  return depths;
}

template <typename scalar_t>
void attend_part(const TreeAttention& attention, const scalar_t* query, const scalar_t* key, const scalar_t* value,
                 const int32_t* depths, const AttentionTile& tile, int64_t part, const PartialState& state) {
  if constexpr (std::is_same_v<scalar_t, bfloat16>) {
    if (attention.bfloat16_products && (tile.end - tile.begin) * attention.group() > kFewRows) {
      return attend_part_as<bfloat16>(attention, query, key, value, depths, tile, part, state);
    }
  }
  attend_part_as<float>(attention, query, key, value, depths, tile, part, state);
}

template <typename scalar_t>
void merge_parts(const TreeAttention& a, const AttentionTile& tile, const std::vector<PartialState>& parts,
                 scalar_t* out, float* lse) {
  const int64_t width = round_up(a.value_dim, 16);
  std::vector<float> factors(parts.size());
  for (int64_t row = 0; row < (tile.end - tile.begin) * a.group(); ++row) {
    const int64_t head = tile.kv_head * a.group() + row % a.group();
    const int64_t target = (tile.b * a.nodes + tile.begin + row / a.group()) * a.heads + head;
    float largest = -kInfinity;
    bool sees = false;  // a sum of NaN has no maximum, and has been seen all the same
    for (const PartialState& part : parts) {
      largest = std::max(largest, part.maximum[row]);
      sees = sees || part.sum[row] != 0;
    }
    float total = 0;
    if (sees && a.sinks) {
      const float sink = a.sinks[head] * kLog2E;
      largest = std::max(largest, sink);
      total = std::exp2(sink - largest);
    }
    for (size_t i = 0; i < parts.size(); ++i) {
      const bool empty = parts[i].sum[row] == 0;
      factors[i] = empty ? 0.0f : std::exp2(parts[i].maximum[row] - largest);
      total += factors[i] * parts[i].sum[row];
    }
    const Floats scale = broadcast(sees ? 1 / total : 0.0f);
    for (int64_t d = 0; d < a.value_dim; d += kLanes) {
      Floats merged{};
      for (size_t i = 0; i < parts.size(); ++i) {
        merged = fma(broadcast(factors[i]), load(parts[i].out + row * width + d), merged);
      }
      store_lanes(out + target * a.value_dim + d, std::min(kLanes, a.value_dim - d), merged * scale);
    }
    lse[target] = sees ? static_cast<float>((largest + std::log2(static_cast<double>(total))) * kLn2) : -kInfinity;
  }
}

#define MTP_EXT_INSTANTIATE(scalar_t)                                                                                \
  template void attend_part(const TreeAttention&, const scalar_t*, const scalar_t*, const scalar_t*, const int32_t*, \
                            const AttentionTile&, int64_t, const PartialState&);                                     \
  template void merge_parts(const TreeAttention&, const AttentionTile&, const std::vector<PartialState>&, scalar_t*, \
                            float*);
MTP_EXT_INSTANTIATE(float)
MTP_EXT_INSTANTIATE(bfloat16)
MTP_EXT_INSTANTIATE(float16)
#undef MTP_EXT_INSTANTIATE

}  // namespace mtp_ext
