// Runs the kernel of linear layers on awkward sizes, with inputs and outputs that end where their allocation ends, so
// that AddressSanitizer sees a read or write one element too far, and UndefinedBehaviorSanitizer the rest.
//
// Besides, one law: the results equal the plain product, summed in float64.
#include "cpu/skinny_linear.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>

#include "cpu/simd.h"

namespace mtp_ext {
namespace {

// An allocation of exactly this size; std::vector may round its capacity up.
template <typename T>
std::unique_ptr<T[]> exactly(int64_t count) {
  return std::make_unique<T[]>(count);
}

// Small integers: bfloat16 numbers, whose sums are exact.
float number(int64_t i) { return static_cast<float>(i * 7 % 13 - 6); }

float weight(const LinearShape& shape, int64_t out, int64_t in) { return number(out * shape.in + in); }

void require(bool holds, const LinearShape& shape, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "%s: wrong at rows=%lld in=%lld out=%lld\n", what, static_cast<long long>(shape.rows),
               static_cast<long long>(shape.in), static_cast<long long>(shape.out));
  std::exit(1);
}

void fill_panels(const LinearShape& shape, float* panels) {
  for (int64_t out = 0; out < shape.out; ++out) {
    for (int64_t in = 0; in < shape.in; ++in) {
      panels[(out / kPanel * shape.in + in) * kPanel + out % kPanel] = weight(shape, out, in);
    }
  }
}

void fill_panels(const LinearShape& shape, bfloat16* panels) {
  for (int64_t out = 0; out < shape.out; ++out) {
    for (int64_t in = 0; in < shape.in; ++in) {
      const int64_t pair = (out / kPanel * shape.even_in() / 2 + in / 2) * kPanel + out % kPanel;
      panels[2 * pair + in % 2] = to_bfloat16(weight(shape, out, in));
    }
  }
}

void check_outputs(const LinearShape& shape, int64_t panel, int64_t row_block, const float* outputs, const char* what) {
  for (int64_t row = 0; row < shape.block_rows(row_block); ++row) {
    for (int64_t column = 0; column < shape.columns(panel); ++column) {
      double expected = 0;
      for (int64_t in = 0; in < shape.in; ++in) {
        const double x = number((row_block * kRowBlock + row) * shape.in + in);
        expected += x * weight(shape, panel * kPanel + column, in);
      }
      require(outputs[row * kPanel + column] == expected, shape, what);
    }
  }
}

// multiply(panel, row_block, outputs) for every panel and block of rows.
template <typename Multiply>
void check_all(const LinearShape& shape, const char* what, const Multiply& multiply) {
  for (int64_t row_block = 0; row_block < shape.row_blocks(); ++row_block) {
    for (int64_t panel = 0; panel < shape.panels(); ++panel) {
      const auto outputs = exactly<float>(shape.block_rows(row_block) * kPanel);
      multiply(panel, row_block, outputs.get());
      check_outputs(shape, panel, row_block, outputs.get(), what);
    }
  }
}

// multiply(weight, row_stride, panel, row_block, outputs) for a weight that lies row by row, with something in between.
template <typename weight_t, typename Multiply>
void check_rows(const LinearShape& shape, const char* what, const Multiply& multiply) {
  const int64_t stride = shape.in + 3;
  const auto rows = exactly<weight_t>((shape.out - 1) * stride + shape.in);
  for (int64_t out = 0; out < shape.out; ++out) {
    for (int64_t in = 0; in < shape.in; ++in) store_number(&rows[out * stride + in], weight(shape, out, in));
  }
  check_all(shape, what, [&](int64_t panel, int64_t row_block, float* outputs) {
    multiply(rows.get(), stride, panel, row_block, outputs);
  });
}

template <typename x_t>
void check(const LinearShape& shape) {
  const auto x = exactly<x_t>(shape.rows * shape.in);
  for (int64_t i = 0; i < shape.rows * shape.in; ++i) store_number(&x[i], number(i));
  const auto numbers = exactly<float>(shape.panels() * shape.in * kPanel);
  const auto pairs = exactly<bfloat16>(shape.panels() * shape.even_in() * kPanel);
  fill_panels(shape, numbers.get());
  fill_panels(shape, pairs.get());

  const auto interleaved = exactly<float>(interleaved_size(shape));
  interleave_rows(x.get(), shape.in, shape, interleaved.get());
  check_all(shape, "float32", [&](int64_t panel, int64_t row_block, float* outputs) {
    multiply_panel(interleaved.get(), panel_at(numbers.get(), shape, panel), shape, row_block, outputs);
  });
  check_all(shape, "bfloat16", [&](int64_t panel, int64_t row_block, float* outputs) {
    multiply_panel(interleaved.get(), panel_at(pairs.get(), shape, panel), shape, row_block, outputs);
  });
  const auto by_rows = [&](const auto* weight, int64_t stride, int64_t panel, int64_t row_block, float* outputs) {
    multiply_rows(interleaved.get(), weight, stride, shape, panel, row_block, outputs);
  };
  check_rows<float>(shape, "rows of float32", by_rows);
  check_rows<bfloat16>(shape, "rows of bfloat16", by_rows);
  check_rows<float16>(shape, "rows of float16", by_rows);

  if (!has_bfloat16_dots()) return;
  const auto rounded = exactly<bfloat16>(shape.rows * shape.even_in());
  round_rows(x.get(), shape.in, shape, rounded.get());
  const LinearShape words{shape.rows, shape.even_in() / 2, shape.out};
  const auto interleaved_pairs = exactly<float>(interleaved_size(words));
  interleave_rows(reinterpret_cast<const float*>(rounded.get()), words.in, words, interleaved_pairs.get());
  check_all(shape, "bfloat16 dots", [&](int64_t panel, int64_t row_block, float* outputs) {
    multiply_rounded(interleaved_pairs.get(), panel_at(pairs.get(), shape, panel), shape, row_block, outputs);
  });
  const auto by_pairs = [&](const bfloat16* weight, int64_t stride, int64_t panel, int64_t row_block, float* outputs) {
    multiply_rounded_rows(interleaved_pairs.get(), weight, stride, shape, panel, row_block, outputs);
  };
  check_rows<bfloat16>(shape, "bfloat16 dots of rows", by_pairs);
}

}  // namespace
}  // namespace mtp_ext

int main() {
  for (const int64_t rows : {1, 2, 3, 4, 5, 8, 9, 16, 17, 21, 64, 65, 257}) {
    for (const int64_t in : {0, 1, 2, 15, 64, 65, 131}) {
      for (const int64_t out : {1, 32, 33}) {
        mtp_ext::check<float>({rows, in, out});
        mtp_ext::check<mtp_ext::bfloat16>({rows, in, out});
      }
    }
  }
}
