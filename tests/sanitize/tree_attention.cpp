// Runs the tree attention kernel on awkward sizes, with inputs and outputs that end where their allocation ends, so
// that AddressSanitizer sees a read or write one element too far, and UndefinedBehaviorSanitizer the rest. There is no
// torch in this program, and so no brgemm.
//
// Besides, one law: the results equal plain attention, summed in float64.
#include "cpu/tree_attention.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

#include "cpu/simd.h"

namespace mtp_ext {
namespace {

// An allocation of exactly this size; std::vector may round its capacity up.
template <typename T>
std::unique_ptr<T[]> exactly(int64_t count) {
  return std::make_unique<T[]>(count);
}

struct Sizes {
  int64_t nodes, count, prefix, kv_heads, group, head_dim, value_dim, page_size;  // page_size 0: contiguous
};

struct Options {
  bool chain = false;
  bool siblings = false;
  float softcap = 0;
  int64_t window = 0, start = 0;
  bool sinks = false;
};

template <typename scalar_t>
class Request {
 public:
  Request(const Sizes& sizes, const Options& options) : sizes_(sizes), rows_(sizes.prefix + sizes.count) {
    const int64_t page_size = sizes.page_size ? sizes.page_size : rows_;
    const int64_t pages = sizes.page_size ? ceil_div(rows_, page_size) : 1;
    a_.batch = 1;
    a_.nodes = sizes.nodes;
    a_.kv_heads = sizes.kv_heads;
    a_.heads = sizes.kv_heads * sizes.group;
    a_.head_dim = sizes.head_dim;
    a_.value_dim = sizes.value_dim;
    a_.words = ceil_div(sizes.nodes, 64);
    a_.pages.pages = pages;
    a_.pages.page_size = page_size;
    a_.query_stride = {0, a_.heads * a_.head_dim, a_.head_dim};
    a_.ancestors_stride = {0, a_.words, 0};
    a_.key_stride = {page_size * a_.kv_heads * a_.head_dim, a_.kv_heads * a_.head_dim, a_.head_dim};
    a_.value_stride = {page_size * a_.kv_heads * a_.value_dim, a_.kv_heads * a_.value_dim, a_.value_dim};
    a_.scale = 0.3f;
    a_.softcap = options.softcap;
    a_.window = options.window;
    query_ = random(sizes.nodes * a_.heads * a_.head_dim);
    key_ = random(pages * page_size * a_.kv_heads * a_.head_dim);
    value_ = random(pages * page_size * a_.kv_heads * a_.value_dim);
    lengths_[0] = sizes.prefix;
    lengths_[1] = sizes.count;
    lengths_[2] = options.start;
    a_.prefix_lengths = &lengths_[0];
    a_.node_counts = &lengths_[1];
    a_.starts = &lengths_[2];
    if (sizes.page_size) {  // in the opposite order
      page_table_ = exactly<int64_t>(pages);
      for (int64_t i = 0; i < pages; ++i) page_table_[i] = pages - 1 - i;
      a_.pages.page_table = page_table_.get();
      a_.pages.page_table_stride = a_.pages.columns = pages;
    }
    if (options.sinks) {
      sinks_ = exactly<float>(a_.heads);
      a_.sinks = sinks_.get();
    }
    if (!options.chain) grow_tree(options.siblings);
    a_.bfloat16_products = std::is_same_v<scalar_t, bfloat16> && has_bfloat16_dots();
  }

  void check() {
    const int64_t out_row = a_.value_dim;
    const auto out = exactly<scalar_t>(a_.nodes * a_.heads * a_.value_dim);
    const auto lse = exactly<float>(a_.nodes * a_.heads);
    attend(out.get(), lse.get());
    for (int64_t node = 0; node < a_.nodes; ++node) {
      for (int64_t head = 0; head < a_.heads; ++head) {
        const int64_t row = node * a_.heads + head;
        std::vector<double> expected(a_.value_dim + 1);
        attend_plainly(node, head, expected);
        compare(lse[row], expected.back(), 1e-4, node);
        for (int64_t d = 0; d < a_.value_dim; ++d) {
          compare(to_float(out[row * out_row + d]), expected[d], sizeof(scalar_t) == 2 ? 0.02 : 1e-4, node);
        }
      }
    }
  }

 private:
  std::unique_ptr<scalar_t[]> random(int64_t count) {
    auto numbers = exactly<scalar_t>(count);
    for (int64_t i = 0; i < count; ++i) {
      state_ = state_ * 1664525u + 1013904223u;
      store_number(&numbers[i], static_cast<float>(state_ >> 8) * 0x1p-23f - 1.0f);
    }
    return numbers;
  }

  void grow_tree(bool siblings) {  // the parent of node i is i / 2
    ancestors_ = exactly<int64_t>(a_.nodes * a_.words);
    for (int64_t node = 0; node < sizes_.count; ++node) {
      for (int64_t other = node;; other /= 2) {
        ancestors_[node * a_.words + other / 64] |= static_cast<int64_t>(uint64_t{1} << other % 64);
        if (other == 0 || siblings) break;
      }
    }
    a_.ancestors = ancestors_.get();
  }

  void attend(scalar_t* out, float* lse) {
    const std::vector<int32_t> depths = node_depths(a_);
    const int64_t step = nodes_per_tile(a_), width = round_up(a_.value_dim, 16);
    AttentionWorkspace workspace;
    for (int64_t node = 0; node < a_.nodes; node += step) {
      const AttentionTile tile{0, 0, a_.kv_heads, node, std::min(node + step, a_.nodes)};
      const int64_t rows = a_.kv_heads * state_rows(a_, tile);
      std::vector<std::unique_ptr<float[]>> memory;
      std::vector<PartialState> parts;
      for (int64_t part = 0; part < part_count(sizes_.prefix); ++part) {
        for (const int64_t size : {rows * width, rows, rows}) memory.push_back(exactly<float>(size));
        parts.push_back({memory[3 * part].get(), memory[3 * part + 1].get(), memory[3 * part + 2].get()});
        attend_part(a_, query_.get(), key_.get(), value_.get(), depths.data(), tile, part, parts.back(), workspace);
      }
      merge_parts(a_, tile, parts, out, lse);
    }
  }

  bool sees(int64_t node, int64_t row) const {
    if (node >= sizes_.count) return false;
    const int64_t other = row - sizes_.prefix;
    if (other < 0 && row < lengths_[2]) return false;
    if (other >= 0 && (row < lengths_[2] || !sees_node(node, other))) return false;
    const int64_t position = other < 0 ? row : sizes_.prefix + depth(other);
    return a_.window == 0 || sizes_.prefix + depth(node) - position < a_.window;
  }
  bool sees_node(int64_t node, int64_t other) const {
    if (!a_.ancestors) return other <= node;
    return static_cast<uint64_t>(ancestors_[node * a_.words + other / 64]) >> other % 64 & 1;
  }
  int64_t depth(int64_t node) const {
    int64_t result = -1;
    for (int64_t other = 0; other < sizes_.count; ++other) result += sees_node(node, other);
    return result;
  }

  // `result`: the row of out, then its LSE.
  void attend_plainly(int64_t node, int64_t head, std::vector<double>& result) const {
    double total = 0;
    for (int64_t row = 0; row < rows_; ++row) {
      if (!sees(node, row)) continue;
      const int64_t place = a_.pages.page(0, row) * a_.pages.page_size + a_.pages.place(row);
      const int64_t kv = place * a_.kv_heads + head / a_.group();
      double score = 0;
      for (int64_t d = 0; d < a_.head_dim; ++d) {
        score += static_cast<double>(to_float(query_[(node * a_.heads + head) * a_.head_dim + d])) *
                 to_float(key_[kv * a_.head_dim + d]);
      }
      score *= a_.scale;
      if (a_.softcap > 0) score = a_.softcap * std::tanh(score / a_.softcap);
      const double weight = std::exp(score);
      total += weight;
      for (int64_t d = 0; d < a_.value_dim; ++d) result[d] += weight * to_float(value_[kv * a_.value_dim + d]);
    }
    if (total > 0 && a_.sinks) total += 1;  // all are 0
    for (int64_t d = 0; d < a_.value_dim && total > 0; ++d) result[d] /= total;
    result.back() = std::log(total);
  }

  void compare(double actual, double expected, double tolerance, int64_t node) const {
    if (actual == expected || std::fabs(actual - expected) <= tolerance) return;
    std::fprintf(stderr, "%g for %g: nodes=%lld prefix=%lld group=%lld head_dim=%lld value_dim=%lld, node %lld\n",
                 actual, expected, static_cast<long long>(a_.nodes), static_cast<long long>(sizes_.prefix),
                 static_cast<long long>(a_.group()), static_cast<long long>(a_.head_dim),
                 static_cast<long long>(a_.value_dim), static_cast<long long>(node));
    std::exit(1);
  }

  Sizes sizes_;
  int64_t rows_;
  TreeAttention a_{};
  uint32_t state_ = 1;
  int64_t lengths_[3];
  std::unique_ptr<scalar_t[]> query_, key_, value_;
  std::unique_ptr<int64_t[]> ancestors_, page_table_;
  std::unique_ptr<float[]> sinks_;
};

template <typename scalar_t>
void run_all() {
  Options everything;
  everything.softcap = 2;
  everything.window = 9;
  everything.start = 3;
  everything.sinks = true;
  Options chain;
  chain.chain = true;
  Options siblings;
  siblings.siblings = true;
  for (const Options& options : {Options{}, everything, chain, siblings}) {
    // One node and the few that are multiplied from the keys' side; one more and one fewer than a word, a block of
    // keys, a panel and a tile; no prefix, one part of it and two.
    Request<scalar_t>({1, 1, 40, 1, 1, 16, 16, 0}, options).check();
    Request<scalar_t>({3, 3, 0, 2, 2, 17, 33, 0}, options).check();
    Request<scalar_t>({9, 7, 257, 1, 1, 33, 17, 5}, options).check();
    Request<scalar_t>({65, 63, 255, 1, 3, 17, 17, 16}, options).check();
    Request<scalar_t>({130, 129, 7, 1, 2, 31, 80, 1}, options).check();
    Request<scalar_t>({5, 5, 1030, 1, 4, 16, 16, 64}, options).check();
    Request<scalar_t>({33, 33, 127, 2, 3, 32, 48, 0}, options).check();
    Request<scalar_t>({17, 17, 9, 1, 8, 256, 256, 0}, options).check();
    Request<scalar_t>({2, 0, 20, 1, 4, 16, 16, 0}, options).check();
    Request<scalar_t>({2, 2, 20, 1, 260, 16, 16, 0}, options).check();
  }
}

}  // namespace
}  // namespace mtp_ext

int main() {
  mtp_ext::run_all<float>();
  mtp_ext::run_all<mtp_ext::bfloat16>();
  mtp_ext::run_all<mtp_ext::float16>();
}
