#include <algorithm>
#include <vector>

#include "gemm_tile.h"
#include "key_block.h"
#include "simd.h"
#include "skinny_linear.h"

namespace mtp_ext {
namespace {

// Rows x columns of sums that the registers hold, with room for weights and an x.
#if defined(__AVX512F__)
constexpr int64_t kTileRows = 8, kTileColumns = 32;
#elif defined(__AVX2__)
constexpr int64_t kTileRows = 4, kTileColumns = 16;
#else
constexpr int64_t kTileRows = 2, kTileColumns = 16;
#endif
constexpr int64_t kVectors = kTileColumns / kLanes;

// The weights to come, on their way into the second-level cache while these are multiplied. Each of the tiles that
// share a block of weights asks for its part, so that memory is busy all the time.
class Prefetcher {
 public:
  Prefetcher(const void* block, int64_t block_bytes, int64_t tile, int64_t tiles)
      : next_(static_cast<const char*>(block) + kBytesAhead + block_bytes / tiles * tile), step_(kLine / tiles) {}

  void two_lines() {
    __builtin_prefetch(next_, 0, 2);
    __builtin_prefetch(next_ + step_, 0, 2);
    next_ += 2 * step_;
  }

 private:
  static constexpr int64_t kLine = 64;
  static constexpr int64_t kBytesAhead = kBlockInputs * kPanel * sizeof(float);  // at least a block

  const char* next_;
  int64_t step_;
};

template <int64_t kRows>
inline void add_products(const Floats (&weight)[kVectors], const float* x, Floats (&sums)[kRows][kVectors]) {
  for (int64_t row = 0; row < kRows; ++row) {
    const Floats number = broadcast(x[row]);
    for (int64_t v = 0; v < kVectors; ++v) sums[row][v] = fma(number, weight[v], sums[row][v]);
  }
}

template <int64_t kRows>
inline void add_inputs(const float* panel, int64_t inputs, const float* x, int64_t stride, Prefetcher ahead,
                       Floats (&sums)[kRows][kVectors]) {
#pragma GCC unroll 4
  for (int64_t i = 0; i < inputs; ++i) {
    ahead.two_lines();
    Floats weight[kVectors];
    for (int64_t v = 0; v < kVectors; ++v) weight[v] = load(panel + v * kLanes);
    add_products(weight, x, sums);
    panel += kPanel;
    x += stride;
  }
}

// A word holds the weights of an even and an odd input.
template <int64_t kRows>
inline void add_inputs(const bfloat16* panel, int64_t inputs, const float* x, int64_t stride, Prefetcher ahead,
                       Floats (&sums)[kRows][kVectors]) {
  const auto widen = [&](Floats(&even)[kVectors], Floats(&odd)[kVectors]) {
    for (int64_t v = 0; v < kVectors; ++v) {
      Integers words;
      std::memcpy(&words, panel + 2 * v * kLanes, sizeof(words));
      even[v] = (Floats)(words << 16);
      odd[v] = (Floats)(words & static_cast<int32_t>(0xffff0000));
    }
  };
  Floats even[kVectors], odd[kVectors];
#pragma GCC unroll 2
  for (int64_t i = 0; i + 2 <= inputs; i += 2) {
    ahead.two_lines();
    widen(even, odd);
    add_products(even, x, sums);
    add_products(odd, x + stride, sums);
    panel += 2 * kPanel;
    x += 2 * stride;
  }
  if (inputs % 2) {
    widen(even, odd);
    add_products(even, x, sums);
  }
}

template <int64_t kRows, typename scalar_t>
void add_block(const scalar_t* panel, int64_t inputs, const float* x, int64_t stride, const Prefetcher& ahead,
               float* out) {
  constexpr int64_t kNumbersPerColumn = sizeof(scalar_t) == 2 ? 2 : 1;
  for (int64_t column = 0; column < kPanel; column += kTileColumns) {
    Floats sums[kRows][kVectors] = {};
    add_inputs<kRows>(panel + column * kNumbersPerColumn, inputs, x, stride, ahead, sums);
    for (int64_t row = 0; row < kRows; ++row) {
      for (int64_t v = 0; v < kVectors; ++v) {
        float* total = out + row * kPanel + column + v * kLanes;
        store(total, load(total) + sums[row][v]);
      }
    }
  }
}

template <int64_t kRows, typename scalar_t>
void add_rows(int64_t rows, const scalar_t* panel, int64_t inputs, const float* x, int64_t stride,
              const Prefetcher& ahead, float* out) {
  if (rows == kRows) return add_block<kRows>(panel, inputs, x, stride, ahead, out);
  if constexpr (kRows > 1) add_rows<kRows - 1>(rows, panel, inputs, x, stride, ahead, out);
}

// What a group takes of which this many rows are left.
int64_t interleaved_rows(int64_t rows) { return rows <= 4 ? rows : kRowGroup; }

}  // namespace

int64_t interleaved_size(const LinearShape& s) {
  return s.in * (s.rows / kRowGroup * kRowGroup + interleaved_rows(s.rows % kRowGroup));
}

template <typename scalar_t>
void interleave_rows(const scalar_t* x, int64_t row_stride, const LinearShape& s, float* out) {
  std::vector<float> widened;
  for (int64_t first = 0; first < s.rows; first += kRowGroup) {
    const int64_t rows = std::min(kRowGroup, s.rows - first);
    const int64_t stride = interleaved_rows(rows);
    if (stride < kRowGroup) {
      for (int64_t row = 0; row < rows; ++row) {
        for (int64_t i = 0; i < s.in; ++i) out[i * stride + row] = to_float(x[(first + row) * row_stride + i]);
      }
    } else {
      if (sizeof(scalar_t) != sizeof(float)) widened.resize(kRowGroup * s.in);
      const float* pointers[kRowGroup];
      for (int64_t row = 0; row < rows; ++row) {
        pointers[row] = as_operand(x + (first + row) * row_stride, s.in, widened.data() + row * s.in);
      }
      transpose_words(pointers, rows, s.in, kRowGroup, out);
    }
    out += stride * s.in;
  }
}

template <typename scalar_t>
void multiply_panel(const float* x, const scalar_t* panel, const LinearShape& s, int64_t row_block, float* out) {
  const int64_t begin = row_block * kRowBlock, rows = s.block_rows(row_block);
  const int64_t tiles = ceil_div(rows, kTileRows);
  std::fill_n(out, rows * kPanel, 0.0f);
  for (int64_t input = 0; input < s.in; input += kBlockInputs) {
    const int64_t inputs = std::min(kBlockInputs, s.in - input);
    const scalar_t* block = panel + input * kPanel;
    for (int64_t tile = 0; tile < tiles; ++tile) {
      const int64_t row = tile * kTileRows, group = (begin + row) / kRowGroup * kRowGroup;
      const int64_t stride = interleaved_rows(s.rows - group);
      const float* numbers = x + group * s.in + input * stride + (begin + row - group);
      const Prefetcher ahead(block, inputs * kPanel * sizeof(scalar_t), tile, tiles);
      add_rows<kTileRows>(std::min(kTileRows, rows - row), block, inputs, numbers, stride, ahead, out + row * kPanel);
    }
  }
}

template <typename scalar_t>
void round_rows(const scalar_t* x, int64_t row_stride, const LinearShape& s, bfloat16* out) {
  for (int64_t row = 0; row < s.rows; ++row) {
    for (int64_t i = 0; i < s.in; ++i) out[i] = to_bfloat16(to_float(x[row * row_stride + i]));
    if (s.in % 2) out[s.in] = bfloat16{0};
    out += s.even_in();
  }
}

void multiply_rounded(const bfloat16* x, const bfloat16* panel, const LinearShape& s, int64_t row_block, float* out) {
  const int64_t rows = s.block_rows(row_block);
  float sums[kRowBlock * kPanel];
  std::fill_n(out, rows * kPanel, 0.0f);
  for (int64_t input = 0; input < s.in; input += kBlockInputs) {
    const int64_t inputs = std::min(kBlockInputs, s.even_in() - input);
    gemm({rows, kPanel, inputs, s.even_in(), kPanel, kPanel}, false, x + row_block * kRowBlock * s.even_in() + input,
         panel + input * kPanel, sums);
    for (int64_t i = 0; i < rows * kPanel; ++i) out[i] += sums[i];
  }
  gemm_done(true);
}

template void interleave_rows(const float*, int64_t, const LinearShape&, float*);
template void interleave_rows(const bfloat16*, int64_t, const LinearShape&, float*);
template void multiply_panel(const float*, const float*, const LinearShape&, int64_t, float*);
template void multiply_panel(const float*, const bfloat16*, const LinearShape&, int64_t, float*);
template void round_rows(const float*, int64_t, const LinearShape&, bfloat16*);
template void round_rows(const bfloat16*, int64_t, const LinearShape&, bfloat16*);

}  // namespace mtp_ext
