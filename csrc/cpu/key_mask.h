// Which keys of a block each node of a tile sees, as bits.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "tree_attention.h"

namespace mtp_ext {

class KeyMask {
 public:
  explicit KeyMask(int64_t nodes) : words_(nodes * kWords) {}

  // Starts a block of `keys` that nobody sees yet.
  void clear(int64_t keys) {
    std::fill(words_.begin(), words_.end(), 0);
    std::fill_n(seen_, kWords, 0);
    keys_ = keys;
    first_ = static_cast<int64_t>(words_.size());
    last_ = -1;
    pairs_ = 0;
    all_ = true;
  }

  // The node sees the keys low <= i < high.
  void set_range(int64_t node, int64_t low, int64_t high) {
    for (int64_t w = 0; w < kWords; ++w) set_word(node, w, ones(high - 64 * w) & ~ones(low - 64 * w));
  }

  // The node sees the keys 64 w + i whose bit i is set.
  void set_word(int64_t node, int64_t w, uint64_t word) {
    words_[node * kWords + w] = word;
    all_ = all_ && word == ones(keys_ - 64 * w);
    if (!word) return;
    seen_[w] |= word;
    pairs_ += __builtin_popcountll(word);
    first_ = std::min(first_, node);
    last_ = std::max(last_, node);
  }

  int64_t keys() const { return keys_; }
  bool none() const { return last_ < 0; }
  bool all() const { return all_; }              // whether every node sees every key
  int64_t pairs() const { return pairs_; }       // of a node and a key that it sees
  int64_t first_node() const { return first_; }  // that sees any of the keys
  int64_t last_node() const { return last_; }
  bool all_seen() const {  // whether some node sees each key
    for (int64_t w = 0; w < kWords; ++w) {
      if (seen_[w] != ones(keys_ - 64 * w)) return false;
    }
    return true;
  }
  bool seen(int64_t key) const { return seen_[key / 64] >> key % 64 & 1; }  // by any node
  uint64_t word(int64_t node, int64_t w) const { return words_[node * kWords + w]; }
  uint32_t lanes(int64_t node, int64_t key) const {
    return static_cast<uint32_t>(word(node, key / 64) >> key % 64) & kAllLanes;
  }

  static uint64_t ones(int64_t count) {  // the lowest `count` bits
    return count <= 0 ? 0 : count >= 64 ? ~uint64_t{0} : (uint64_t{1} << count) - 1;
  }

 private:
  static constexpr int64_t kWords = kKeyBlock / 64;

  std::vector<uint64_t> words_;  // [nodes, kWords]
  uint64_t seen_[kWords] = {};
  int64_t keys_ = 0;
  int64_t first_ = 0;
  int64_t last_ = -1;
  int64_t pairs_ = 0;
  bool all_ = true;
};

}  // namespace mtp_ext
