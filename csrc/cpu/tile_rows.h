// The rows of the cache that a tile's nodes see, block by block.
#pragma once

#include <algorithm>

#include "key_mask.h"
#include "tree_attention.h"

namespace mtp_ext {

inline constexpr int64_t kTreeBlock =
    64;  // nodes, one word of ancestor bits: siblings see nothing outside their diagonal

inline constexpr int64_t kLargestDim = 256;

// For a value that nobody sees and that may be NaN: 0 * NaN is NaN.
template <typename scalar_t>
inline constexpr scalar_t kZeros[kLargestDim] = {};

// Rows first <= r < first + keys of the cache; `next` rows follow that the part will read. Siblings are nodes that see
// none of the others.
struct KeyRange {
  int64_t first, keys, next;
  bool siblings;
};

template <typename scalar_t>
class TileRows {
 public:
  TileRows(const TreeAttention& attention, const scalar_t* key, const scalar_t* value, const int32_t* depths,
           const AttentionTile& tile)
      : mask(tile.end - tile.begin),
        a_(attention),
        key_(key),
        value_(value),
        depths_(depths + tile.b * attention.nodes),
        tile_(tile) {}

  KeyMask mask;  // who sees what of the block at hand

  int64_t nodes() const { return tile_.end - tile_.begin; }
  int64_t heads() const { return tile_.head_end - tile_.head_begin; }
  int64_t rows() const { return nodes() * a_.group(); }  // of a KV head

  // Where the query of a KV head's row lies in a tensor [batch, nodes, heads, head_dim].
  const scalar_t* query_row(const scalar_t* query, int64_t head, int64_t row) const {
    const int64_t query_head = (tile_.head_begin + head) * a_.group() + row % a_.group();
    return query + tile_.b * a_.query_stride.batch + (tile_.begin + row / a_.group()) * a_.query_stride.node +
           query_head * a_.query_stride.head;
  }
  const scalar_t* key_row(int64_t row, int64_t head) const {
    return key_ + a_.pages.page(tile_.b, row) * a_.key_stride.page + a_.pages.place(row) * a_.key_stride.row +
           (tile_.head_begin + head) * a_.key_stride.head;
  }
  const scalar_t* value_row(int64_t row, int64_t head) const {
    return value_ + a_.pages.page(tile_.b, row) * a_.value_stride.page + a_.pages.place(row) * a_.value_stride.row +
           (tile_.head_begin + head) * a_.value_stride.head;
  }

  // body(range) for the rows begin <= r < end of the prefix, `block` at a time.
  template <typename Body>
  void for_prefix(int64_t begin, int64_t end, int64_t block, Body&& body) {
    begin = std::max(begin, first_visible());
    for (int64_t first = begin; first < end; first += block) {
      const int64_t keys = std::min(block, end - first);
      mask.clear(keys);
      for (int64_t i = 0; i < nodes(); ++i) {
        const int32_t depth = depths_[tile_.begin + i];
        int64_t low = a_.start(tile_.b);
        if (a_.window > 0) low = std::max(low, a_.prefix(tile_.b) + depth - a_.window + 1);
        mask.set_range(i, depth < 0 ? keys : low - first, keys);
      }
      if (!mask.none()) body(KeyRange{first, keys, end - first - keys, false});
    }
  }

  // The same for the nodes themselves, `block` at a time where they are a chain, else by words of ancestor bits.
  template <typename Body>
  void for_nodes(int64_t block, Body&& body) {
    if (a_.ancestors) block = kTreeBlock;
    const int64_t hidden = a_.start(tile_.b) - a_.prefix(tile_.b);  // nodes before the first visible row
    for (int64_t first = 0; first < a_.count(tile_.b); first += block) {
      const int64_t keys = std::min(block, a_.count(tile_.b) - first);
      mask.clear(keys);
      for (int64_t i = 0; i < nodes(); ++i) {
        const int64_t node = tile_.begin + i;
        if (depths_[node] < 0) {
          mask.set_range(i, keys, keys);
        } else if (a_.ancestors) {
          const uint64_t shown = KeyMask::ones(keys) & ~KeyMask::ones(hidden - first);
          mask.set_word(i, 0, ancestors_in_window(node, first / 64) & shown);
        } else {
          const int64_t low = a_.window > 0 ? std::max(hidden, node - a_.window + 1) : hidden;
          mask.set_range(i, low - first, std::min(node + 1 - first, keys));
        }
      }
      if (!mask.none()) body(KeyRange{a_.prefix(tile_.b) + first, keys, 0, a_.ancestors && mask.pairs() <= nodes()});
    }
  }

 private:
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

  const TreeAttention& a_;
  const scalar_t* key_;
  const scalar_t* value_;
  const int32_t* depths_;
  const AttentionTile& tile_;
};

}  // namespace mtp_ext
