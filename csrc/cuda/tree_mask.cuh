// Which rows of the cache a node sees, as bits; and the tiles of keys that the nodes of a tile of rows see at all.
#pragma once

#include "cache_access.cuh"
#include "reduce.cuh"
#include "tree_attention.h"

namespace mtp_ext::cuda {

__device__ inline uint64_t lowest_bits(int count) {
  return count <= 0 ? 0 : count >= 64 ? ~uint64_t{0} : (uint64_t{1} << count) - 1;
}

// One request's tree. A request whose lengths do not fit its cache is reported and has no nodes and no prefix.
class TreeMask {
 public:
  __device__ TreeMask(const TreeAttentionParams& params, int64_t b) : p_(params), a_(params.attention), b_(b) {
    const int64_t prefix_length = a_.prefix_lengths[b];
    const int64_t node_count = a_.node_counts ? a_.node_counts[b] : a_.nodes;
    const int64_t start = a_.starts ? a_.starts[b] : 0;
    const bool right = fits(prefix_length, node_count, a_.nodes, a_.capacity);
    if (!right) report(p_.status, Fault::kLengths, b);
    if (start < 0) report(p_.status, Fault::kStart, b);
    prefix_ = right ? static_cast<int>(prefix_length) : 0;
    count_ = right ? static_cast<int>(node_count) : 0;
    start_ = static_cast<int>(max(int64_t{0}, min(start, a_.capacity)));
  }

  __device__ int prefix() const { return prefix_; }
  __device__ int count() const { return count_; }

  // The first row of the prefix that any node may see: the root is at position `prefix`.
  __device__ int first_row() const { return window() > 0 ? max(start_, prefix_ - window() + 1) : start_; }

  __device__ bool hides_ancestors() const { return a_.window > 0 && a_.window < a_.nodes; }

  // Of a node in its path, 0 for the root; -1 for padding.
  __device__ int depth(int node) const {
    if (node >= count_) return -1;
    if (!a_.ancestors) return node;
    int seen = 0;
#pragma unroll 1
    for (int word = 0; word < a_.words; ++word) {
      const uint64_t bits = ancestors(node, word);
      const uint64_t real = bits & lowest_bits(static_cast<int>(a_.nodes) - 64 * word);
      if (bits != real) report(p_.status, Fault::kAncestors, b_ * a_.nodes + node);
      seen += __popcll(real);
    }
    return seen - 1;
  }

  // The rows first <= r < end of the prefix that a node of this depth sees.
  __device__ uint64_t prefix_bits(int depth, int first, int end) const {
    if (depth < 0) return 0;
    const int low = window() > 0 ? max(start_, prefix_ + depth - window() + 1) : start_;
    return lowest_bits(end - first) & ~lowest_bits(low - first);
  }

  // The nodes 64 word <= n < 64 word + 64 that a node sees.
  __device__ uint64_t tree_bits(int node, int depth, int word) const {
    if (depth < 0) return 0;
    const int first = 64 * word;
    uint64_t bits = a_.ancestors ? ancestors(node, word) : lowest_bits(node + 1 - first);
    bits &= lowest_bits(count_ - first) & ~lowest_bits(start_ - prefix_ - first);
    if (window() == 0 || depth < window()) return bits;
    if (!a_.ancestors) return bits & ~lowest_bits(node - window() + 1 - first);
#pragma unroll 1
    for (uint64_t rest = bits; rest; rest &= rest - 1) {
      const int ancestor = first + __ffsll(static_cast<long long>(rest)) - 1;
      if (depth - this->depth(ancestor) >= window()) bits &= ~(rest & (~rest + 1));
    }
    return bits;
  }

 private:
  __device__ int window() const { return static_cast<int>(min(a_.window, int64_t{INT32_MAX})); }

  __device__ uint64_t ancestors(int node, int word) const {
    return a_.ancestors[b_ * a_.ancestors_stride.batch + node * a_.ancestors_stride.node + word];
  }

  const TreeAttentionParams& p_;  // in constant memory: nothing of it is copied to registers
  const TreeAttention& a_;
  int64_t b_;
  int prefix_, count_, start_;
};

// Walks over the tiles of kKeys keys that a tile of rows sees: of its part of the prefix, then of the tree, where
// blocks that nobody sees are left out. All warps walk alike.
template <int kKeys>
class KeyTiles {
 public:
  __device__ KeyTiles(const TreeMask& mask, int node_begin, int node_end, int begin, int end, bool with_tree)
      : mask_(mask),
        node_begin_(node_begin),
        node_end_(min(node_end, mask.count())),
        end_(end),
        words_(with_tree ? (mask.count() + 63) / 64 : 0),
        first_(begin) {
    if (node_begin_ >= node_end_) first_ = end_;  // padding sees nothing
    enter_prefix();
  }

  __device__ bool done() const { return word_ >= words_ && !in_prefix_; }
  __device__ int row() const { return first_; }       // of the first key
  __device__ uint64_t seen() const { return seen_; }  // bit i: somebody may see key i

  // Which of the keys a node sees.
  __device__ uint64_t bits(int node, int depth) const {
    return in_prefix_ ? mask_.prefix_bits(depth, first_, end_) : mask_.tree_bits(node, depth, word_) >> shift_;
  }

  __device__ void next() {
    if (in_prefix_) {
      first_ += kKeys;
      enter_prefix();
    } else {
      shift_ += kKeys;
      enter_tree();
    }
  }

 private:
  __device__ void enter_prefix() {
    in_prefix_ = first_ < end_;
    seen_ = lowest_bits(end_ - first_);
    if (in_prefix_) return;
    shift_ = 64;
    word_ = -1;
    enter_tree();
  }

  // The next tile from `shift_` of this word on that somebody sees, or of a later word.
  __device__ void enter_tree() {
    while (shift_ < 64 && (word_seen_ >> shift_ & lowest_bits(kKeys)) == 0) shift_ += kKeys;
    if (shift_ >= 64) {
      find_word();
      shift_ = 0;
      if (word_ >= words_) return;
      while ((word_seen_ >> shift_ & lowest_bits(kKeys)) == 0) shift_ += kKeys;
    }
    seen_ = word_seen_ >> shift_;
    first_ = mask_.prefix() + 64 * word_ + shift_;
  }

  // The next word of nodes of which anybody sees any; a lane looks at one.
  __device__ void find_word() {
    for (int from = word_ + 1; from < words_; from += kWarp) {
      const int word = from + static_cast<int>(threadIdx.x % kWarp);
      uint64_t seen = 0;
#pragma unroll 1
      for (int node = node_begin_; word < words_ && node < node_end_; ++node) {
        seen |= mask_.tree_bits(node, mask_.hides_ancestors() ? mask_.depth(node) : 0, word);
      }
      const unsigned found = __ballot_sync(kAllOfWarp, seen != 0);
      if (!found) continue;
      const int lane = __ffs(static_cast<int>(found)) - 1;
      word_seen_ = __shfl_sync(kAllOfWarp, static_cast<unsigned long long>(seen), lane);
      word_ = from + lane;
      return;
    }
    word_ = words_;
  }

  const TreeMask& mask_;
  int node_begin_, node_end_;
  int end_;    // of the part's prefix
  int words_;  // of the tree, 0 where it is not of this part
  int first_;
  bool in_prefix_ = false;
  int word_ = -1, shift_ = 0;
  uint64_t word_seen_ = 0, seen_ = 0;
};

}  // namespace mtp_ext::cuda
