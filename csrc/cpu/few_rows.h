// Attention products for a handful of query rows, from the keys' side: each key and value is read once, where it lies,
// and multiplied into registers. Where rows fill the lanes of registers, panel_products.h does without sums across
// them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "products.h"

namespace mtp_ext {

inline constexpr int64_t kKeyStep = 16;    // keys that all heads go through before the next ones
inline constexpr int64_t kRowsAhead = 24;  // fetched; a step and a half, since a head needs all rows of a step

// `heads` KV heads with `rows` query rows each, against `keys` rows of the cache. Scores are [heads, rows, columns].
struct FewRows {
  int64_t heads, rows, keys, columns;
};

// Where `count` rows of the cache lie: of `dim` numbers for each head.
template <typename scalar_t>
struct RowsOfCache {
  const scalar_t* const* rows;
  int64_t count, head_stride, dim;
};

// Brings rows into the second-level cache at the pace at which those before them are multiplied, in the order in which
// they lie: memory's own prefetcher then runs ahead, which fetches more at a time than a core can ask for.
template <typename scalar_t>
class RowPrefetcher {
 public:
  // From row kRowsAhead on.
  RowPrefetcher(const RowsOfCache<scalar_t>& now, const RowsOfCache<scalar_t>& then, int64_t heads)
      : now_(whole_rows(now, heads)),
        then_(whole_rows(then, heads)),
        heads_(now_.head_stride == 0 ? 1 : heads),
        row_(kRowsAhead),
        head_(-1) {
    next_piece();
  }

  // While so many numbers are multiplied.
  template <int64_t kNumbers>
  void fetch() {
    constexpr int64_t kLines = ceil_div(kNumbers * static_cast<int64_t>(sizeof(scalar_t)), kLine);
    if (left_ >= kLines) {
      unrolled<kLines>([&](auto i) { __builtin_prefetch(next_ + i * kLine, 0, 2); });
      next_ += kLines * kLine;
      left_ -= kLines;
    } else {
      fetch_across(kLines);
    }
  }

 private:
  static constexpr int64_t kLine = 64;

  // Heads that follow one another are one piece of memory. Measured: in 16 bits that took a tenth off one node behind
  // 4,096 rows, in float32 it added as much.
  static RowsOfCache<scalar_t> whole_rows(RowsOfCache<scalar_t> cache, int64_t heads) {
    const bool together = sizeof(scalar_t) == 2 && cache.head_stride == cache.dim;
    if (together) cache = {cache.rows, cache.count, 0, cache.dim * heads};
    return cache;
  }

  void fetch_across(int64_t lines) {
    for (; lines > 0 && row_ < now_.count + then_.count; --lines) {
      if (left_ == 0) next_piece();
      __builtin_prefetch(next_, 0, 2);
      next_ += kLine;
      --left_;
    }
  }

  void next_piece() {
    if (++head_ == heads_) {
      head_ = 0;
      ++row_;
    }
    const bool here = row_ < now_.count;
    const RowsOfCache<scalar_t>& cache = here ? now_ : then_;
    const int64_t row = here ? row_ : row_ - now_.count;
    if (row >= cache.count) return;
    next_ = reinterpret_cast<const char*>(cache.rows[row] + head_ * cache.head_stride);
    left_ = ceil_div(cache.dim * static_cast<int64_t>(sizeof(scalar_t)), kLine);
  }

  RowsOfCache<scalar_t> now_, then_;
  int64_t heads_, row_, head_;
  const char* next_ = nullptr;
  int64_t left_ = 0;  // lines of the piece
};

struct NoPrefetcher {
  template <int64_t kNumbers>
  void fetch() {}
};

// A row of `dim` numbers as float32, whole pairs in the order of load_pair.
template <typename scalar_t>
void widen_query(const scalar_t* source, int64_t dim, float* out) {
  int64_t d = 0;
  for (; d + 2 * kLanes <= dim; d += 2 * kLanes) {
    const FloatsPair pair = load_pair(source + d);
    store(out + d, pair.first);
    store(out + d + kLanes, pair.second);
  }
  for (; d < dim; ++d) out[d] = to_float(source[d]);
}

// Calls body(first row, rows as a constant) for groups of at most four rows.
template <typename Body>
void for_row_groups(int64_t rows, Body&& body) {
  int64_t row = 0;
  for (; row + 4 <= rows; row += 4) body(row, std::integral_constant<int64_t, 4>{});
  switch (rows - row) {
    case 3:
      return body(row, std::integral_constant<int64_t, 3>{});
    case 2:
      return body(row, std::integral_constant<int64_t, 2>{});
    case 1:
      return body(row, std::integral_constant<int64_t, 1>{});
    default:
      return;
  }
}

// Of those that go through the same keys, the first group of rows fetches.
template <typename Prefetcher, typename Body>
void with_prefetcher(int64_t row, Prefetcher& prefetcher, Body&& body) {
  NoPrefetcher none;
  if (row == 0) {
    body(prefetcher);
  } else {
    body(none);
  }
}

// The first `count` numbers or kLanes, and zeros. What is left of a row is multiplied in registers too: of a loop over
// single numbers the compiler fuses products and sums here and not there, so that a bit depends on the number of rows.
template <typename scalar_t>
Floats load_rest(const scalar_t* data, int64_t count) {
  return count >= kLanes ? load(data) : load_partial(data, count, 0);
}

// scores[row * stride + i] = queries[row] . (keys[i] + shift), for kRows rows and kKeys keys, sixteen products at most.
template <int64_t kRows, int64_t kKeys, typename scalar_t, typename operand_t, typename Prefetcher>
void dot_tile(const operand_t* queries, int64_t query_stride, const scalar_t* const* keys, int64_t shift, int64_t dim,
              float* scores, int64_t stride, Prefetcher& prefetcher) {
  using Multiply = Products<operand_t>;
  Floats sums[16];  // [kRows, kKeys]. Fewer are added in the same order: a product does not depend on its neighbours.
  unrolled<16>([&](auto i) { sums[i] = Floats{}; });
  int64_t d = 0;
  for (; d + 2 * kLanes <= dim; d += 2 * kLanes) {
    prefetcher.template fetch<kKeys * 2 * kLanes>();
    typename Multiply::Key key[kKeys];
    unrolled<kKeys>([&](auto i) { key[i] = Multiply::key(keys[i] + shift + d); });
    unrolled<kRows * kKeys>(
        [&](auto i) { sums[i] = Multiply::dot(queries + i / kKeys * query_stride + d, key[i % kKeys], sums[i]); });
  }
  for (; d < dim; d += kLanes) {
    unrolled<kRows * kKeys>([&](auto i) {
      const Floats query = load_rest(queries + i / kKeys * query_stride + d, dim - d);
      sums[i] = fma(query, load_rest(keys[i % kKeys] + shift + d, dim - d), sums[i]);
    });
  }
  float totals[16];
  mtp_ext::sums(sums, totals);
  for (int64_t row = 0; row < kRows; ++row) std::copy_n(totals + row * kKeys, kKeys, scores + row * stride);
}

// scores[head, row, i] = queries[head, row] . key i of the head; `then` is read next.
template <typename scalar_t, typename operand_t>
void dot_keys(const FewRows& shape, const operand_t* queries, int64_t query_stride, const RowsOfCache<scalar_t>& keys,
              const RowsOfCache<scalar_t>& then, float* scores) {
  RowPrefetcher<scalar_t> prefetcher(keys, then, shape.heads);
  for (int64_t first = 0; first < shape.keys; first += kKeyStep) {
    const int64_t end = std::min(first + kKeyStep, shape.keys);
    for (int64_t head = 0; head < shape.heads; ++head) {
      const int64_t shift = head * keys.head_stride;
      for_row_groups(shape.rows, [&](int64_t row, auto rows) {
        constexpr int64_t kRows = decltype(rows)::value;
        constexpr int64_t kKeys = kRows == 1 ? 16 : kRows == 2 ? 8 : 4;
        const operand_t* query = queries + (head * shape.rows + row) * query_stride;
        float* out = scores + (head * shape.rows + row) * shape.columns;
        const auto multiply = [&](int64_t i, auto count) {
          constexpr int64_t kCount = decltype(count)::value;
          with_prefetcher(row, prefetcher, [&](auto& fetches) {
            dot_tile<kRows, kCount>(query, query_stride, keys.rows + i, shift, keys.dim, out + i, shape.columns,
                                    fetches);
          });
        };
        int64_t i = first;
        for (; i + kKeys <= end; i += kKeys) multiply(i, std::integral_constant<int64_t, kKeys>{});
        for (; i < end; ++i) multiply(i, std::integral_constant<int64_t, 1>{});
      });
    }
  }
}

// out[row] += sum over values first <= i < first + count of weights[row * stride + i] * value i of the head, for kRows
// rows.
template <int64_t kRows, typename scalar_t, typename operand_t, typename Prefetcher>
void add_tile(const operand_t* weights, int64_t stride, const RowsOfCache<scalar_t>& values, int64_t head,
              int64_t first, int64_t count, float* out, int64_t out_stride, Prefetcher& prefetcher) {
  using Multiply = Products<operand_t>;
  constexpr int64_t kPairs = 2;
  const int64_t shift = head * values.head_stride;
  const int64_t end = first + count;
  int64_t d = 0;
  const auto add_pairs = [&](auto pairs) {
    constexpr int64_t kCount = decltype(pairs)::value;
    FloatsPair sums[kRows * kCount];
    unrolled<kRows * kCount>([&](auto i) { sums[i] = FloatsPair{}; });
    for (int64_t i = first; i < end; i += Multiply::kKeys) {
      prefetcher.template fetch<Multiply::kKeys * kCount * 2 * kLanes>();
      FloatsPair value[kCount];
      unrolled<kCount>([&](auto p) { value[p] = Multiply::values(values.rows + i, shift + d + p * 2 * kLanes); });
      unrolled<kRows>([&](auto row) {
        const Floats weight = Multiply::weight(weights + row * stride + i);
        unrolled<kCount>([&](auto p) {
          FloatsPair& sum = sums[row * kCount + p];
          sum.first = Multiply::add(weight, value[p].first, sum.first);
          sum.second = Multiply::add(weight, value[p].second, sum.second);
        });
      });
    }
    unrolled<kRows * kCount>([&](auto i) {
      const FloatsPair ordered = Multiply::template in_order<scalar_t>(sums[i]);
      float* target = out + i / kCount * out_stride + d + i % kCount * 2 * kLanes;
      store(target, load(target) + ordered.first);
      store(target + kLanes, load(target + kLanes) + ordered.second);
    });
    d += kCount * 2 * kLanes;
  };
  while (d + kPairs * 2 * kLanes <= values.dim) add_pairs(std::integral_constant<int64_t, kPairs>{});
  while (d + 2 * kLanes <= values.dim) add_pairs(std::integral_constant<int64_t, 1>{});
  for (; d < values.dim; d += kLanes) {
    for (int64_t row = 0; row < kRows; ++row) {
      Floats sum{};
      for (int64_t i = first; i < end; ++i) {
        const Floats weight = broadcast(to_float(weights[row * stride + i]));
        sum = fma(weight, load_rest(values.rows[i] + shift + d, values.dim - d), sum);
      }
      float* target = out + row * out_stride + d;
      store(target, load(target) + sum);
    }
  }
}

// out[head, row] += sum_i weights[head, row, i] * value i of the head; `then` is read next. Where Products::kKeys is 2,
// an odd number of values is followed by one more, of weight 0.
template <typename scalar_t, typename operand_t>
void add_values(const FewRows& shape, const operand_t* weights, const RowsOfCache<scalar_t>& values,
                const RowsOfCache<scalar_t>& then, float* out, int64_t out_stride) {
  RowPrefetcher<scalar_t> prefetcher(values, then, shape.heads);
  for (int64_t first = 0; first < shape.keys; first += kKeyStep) {
    const int64_t count = std::min(kKeyStep, shape.keys - first);
    for (int64_t head = 0; head < shape.heads; ++head) {
      for_row_groups(shape.rows, [&](int64_t row, auto rows) {
        const int64_t place = head * shape.rows + row;
        with_prefetcher(row, prefetcher, [&](auto& fetches) {
          add_tile<decltype(rows)::value>(weights + place * shape.columns, shape.columns, values, head, first, count,
                                          out + place * out_stride, out_stride, fetches);
        });
      });
    }
  }
}

}  // namespace mtp_ext
