// Attention products for a handful of query rows, from the keys' side: each key and value is read once, where it lies,
// and multiplied into registers. Packing a block for a matrix product costs more than using it four times.
//
// Numbers are taken in the order of load_pair; the queries are stored in that order and results are put back.
#pragma once

#include <algorithm>
#include <cstdint>

#include "simd.h"

namespace mtp_ext {

inline constexpr int64_t kKeyStep = 16;  // keys that all heads go through before the next ones

// Up to how many rows this is faster than packing; products of bfloat16 are twice as fast as those of float32.
template <typename operand_t>
constexpr bool takes_few_rows(int64_t rows) {
  return rows <= (sizeof(operand_t) == sizeof(float) ? 16 : 8);
}

// `heads` KV heads with `rows` query rows each, against `keys` rows of the cache. Scores are [heads, rows, columns].
struct FewRows {
  int64_t heads, rows, keys, columns;
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

// scores[row * stride + i] = queries[row] . (keys[i] + shift), for kRows rows and kKeys keys, sixteen products at most.
template <int64_t kRows, int64_t kKeys, typename scalar_t>
void dot_tile(const float* queries, int64_t query_stride, const scalar_t* const* keys, int64_t shift, int64_t dim,
              float* scores, int64_t stride) {
  Floats sums[kRows][kKeys] = {};
  int64_t d = 0;
  for (; d + 2 * kLanes <= dim; d += 2 * kLanes) {
    FloatsPair key[kKeys];
    for (int64_t i = 0; i < kKeys; ++i) key[i] = load_pair(keys[i] + shift + d);
    for (int64_t row = 0; row < kRows; ++row) {
      const Floats first = load(queries + row * query_stride + d);
      const Floats second = load(queries + row * query_stride + d + kLanes);
      for (int64_t i = 0; i < kKeys; ++i) {
        sums[row][i] = fma(first, key[i].first, sums[row][i]);
        sums[row][i] = fma(second, key[i].second, sums[row][i]);
      }
    }
  }
  Floats all[16] = {};  // fewer are added in the same order: a product does not depend on its neighbours
  for (int64_t i = 0; i < kRows * kKeys; ++i) all[i] = sums[i / kKeys][i % kKeys];
  float totals[16];
  mtp_ext::sums(all, totals);
  for (int64_t row = 0; row < kRows; ++row) {
    for (int64_t i = 0; i < kKeys; ++i) {
      float total = totals[row * kKeys + i];
      for (int64_t rest = d; rest < dim; ++rest) {
        total += queries[row * query_stride + rest] * to_float(keys[i][shift + rest]);
      }
      scores[row * stride + i] = total;
    }
  }
}

// scores[head, row, i] = queries[head, row] . (keys[i] + head * head_stride).
template <typename scalar_t>
void dot_keys(const FewRows& shape, const float* queries, int64_t query_stride, const scalar_t* const* keys,
              int64_t head_stride, int64_t dim, float* scores) {
  for (int64_t first = 0; first < shape.keys; first += kKeyStep) {
    const int64_t end = std::min(first + kKeyStep, shape.keys);
    for (int64_t head = 0; head < shape.heads; ++head) {
      const int64_t shift = head * head_stride;
      for_row_groups(shape.rows, [&](int64_t row, auto rows) {
        constexpr int64_t kRows = decltype(rows)::value;
        constexpr int64_t kKeys = kRows == 1 ? 16 : kRows == 2 ? 8 : 4;
        const float* query = queries + (head * shape.rows + row) * query_stride;
        float* out = scores + (head * shape.rows + row) * shape.columns;
        int64_t i = first;
        for (; i + kKeys <= end; i += kKeys) {
          for (int64_t next = i + kKeyStep; row == 0 && next < std::min(i + kKeyStep + kKeys, shape.keys); ++next) {
            prefetch_row(keys[next] + shift, dim);
          }
          dot_tile<kRows, kKeys>(query, query_stride, keys + i, shift, dim, out + i, shape.columns);
        }
        for (; i < end; ++i) dot_tile<kRows, 1>(query, query_stride, keys + i, shift, dim, out + i, shape.columns);
      });
    }
  }
}

// out[row] += sum over `count` keys of weights[row * stride + i] * (values[i] + shift), for kRows rows.
template <int64_t kRows, typename scalar_t>
void add_tile(const float* weights, int64_t stride, const scalar_t* const* values, int64_t shift, int64_t count,
              int64_t known, int64_t dim, float* out, int64_t out_stride) {
  constexpr int64_t kPairs = 2;
  int64_t d = 0;
  const auto add_pairs = [&](auto pairs) {
    constexpr int64_t kCount = decltype(pairs)::value;
    FloatsPair sums[kRows][kCount] = {};
    for (int64_t i = 0; i < count; ++i) {
      if (d == 0 && i + kKeyStep < known) prefetch_row(values[i + kKeyStep] + shift, dim);
      FloatsPair value[kCount];
      for (int64_t p = 0; p < kCount; ++p) value[p] = load_pair(values[i] + shift + d + p * 2 * kLanes);
      for (int64_t row = 0; row < kRows; ++row) {
        const Floats weight = broadcast(weights[row * stride + i]);
        for (int64_t p = 0; p < kCount; ++p) {
          sums[row][p].first = fma(weight, value[p].first, sums[row][p].first);
          sums[row][p].second = fma(weight, value[p].second, sums[row][p].second);
        }
      }
    }
    for (int64_t row = 0; row < kRows; ++row) {
      for (int64_t p = 0; p < kCount; ++p) {
        const FloatsPair ordered = in_order<scalar_t>(sums[row][p]);
        float* target = out + row * out_stride + d + p * 2 * kLanes;
        store(target, load(target) + ordered.first);
        store(target + kLanes, load(target + kLanes) + ordered.second);
      }
    }
    d += kCount * 2 * kLanes;
  };
  while (d + kPairs * 2 * kLanes <= dim) add_pairs(std::integral_constant<int64_t, kPairs>{});
  while (d + 2 * kLanes <= dim) add_pairs(std::integral_constant<int64_t, 1>{});
  for (; d < dim; ++d) {
    for (int64_t row = 0; row < kRows; ++row) {
      float total = 0;
      for (int64_t i = 0; i < count; ++i) total += weights[row * stride + i] * to_float(values[i][shift + d]);
      out[row * out_stride + d] += total;
    }
  }
}

// out[head, row] += sum_i weights[head, row, i] * (values[i] + head * head_stride).
template <typename scalar_t>
void add_values(const FewRows& shape, const float* weights, const scalar_t* const* values, int64_t head_stride,
                int64_t dim, float* out, int64_t out_stride) {
  for (int64_t first = 0; first < shape.keys; first += kKeyStep) {
    const int64_t count = std::min(kKeyStep, shape.keys - first);
    for (int64_t head = 0; head < shape.heads; ++head) {
      const int64_t shift = head * head_stride;
      for_row_groups(shape.rows, [&](int64_t row, auto rows) {
        const int64_t place = head * shape.rows + row;
        add_tile<decltype(rows)::value>(weights + place * shape.columns + first, shape.columns, values + first, shift,
                                        count, row == 0 ? shape.keys - first : 0, dim, out + place * out_stride,
                                        out_stride);
      });
    }
  }
}

}  // namespace mtp_ext
