#include <algorithm>
#include <type_traits>
#include <vector>

#include "packed_rows.h"
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

// The weights to come, on their way into the second-level cache while a block of them is multiplied. Each of the tiles
// that share the block asks for its part, so that memory is busy all the time.
class Prefetcher {
 public:
  Prefetcher(const void* to_come, int64_t bytes, int64_t steps, int64_t tile, int64_t tiles)
      : next_(static_cast<const char*>(to_come) + bytes / tiles * tile), step_(bytes / (2 * steps * tiles)) {}

  void two_lines() {
    __builtin_prefetch(next_, 0, 2);
    __builtin_prefetch(next_ + step_, 0, 2);
    next_ += 2 * step_;
  }

 private:
  const char* next_;
  int64_t step_;
};

template <int64_t kRows>
using Sums = Floats[kRows][kVectors];

template <int64_t kRows>
inline void add_products(const Floats (&weight)[kVectors], const float* x, Sums<kRows>& sums) {
  for (int64_t row = 0; row < kRows; ++row) {
    const Floats number = broadcast(x[row]);
    for (int64_t v = 0; v < kVectors; ++v) sums[row][v] = fma(number, weight[v], sums[row][v]);
  }
}

// Three ways to use a panel. Its 32-bit words, kPanel for each step, are a float32 weight or two of bfloat16; `x` are
// the rows' words for that step.

struct Float32Weights {
  static constexpr int64_t kInputs = 1;  // a step
  static constexpr int64_t kXWords = 1;

  template <int64_t kRows>
  static void step(const float* words, const float* x, int64_t, Sums<kRows>& sums) {
    Floats weight[kVectors];
    for (int64_t v = 0; v < kVectors; ++v) weight[v] = load(words + v * kLanes);
    add_products(weight, x, sums);
  }
};

struct WidenedWeights {
  static constexpr int64_t kInputs = 2;
  static constexpr int64_t kXWords = 2;

  template <int64_t kRows>
  static void step(const float* words, const float* x, int64_t stride, Sums<kRows>& sums) {
    last_step(words, x, sums);
    Floats odd[kVectors];
    for (int64_t v = 0; v < kVectors; ++v) {
      odd[v] = (Floats)((Integers)load(words + v * kLanes) & static_cast<int32_t>(0xffff0000));
    }
    add_products(odd, x + stride, sums);
  }

  // Of an odd number of inputs: there is no second x.
  template <int64_t kRows>
  static void last_step(const float* words, const float* x, Sums<kRows>& sums) {
    Floats even[kVectors];
    for (int64_t v = 0; v < kVectors; ++v) even[v] = (Floats)((Integers)load(words + v * kLanes) << 16);
    add_products(even, x, sums);
  }
};

#if defined(__AVX512F__)
// x in pairs, too.
struct BFloat16Dots {
  static constexpr int64_t kInputs = 2;
  static constexpr int64_t kXWords = 1;

  template <int64_t kRows>
  static void step(const float* words, const float* x, int64_t, Sums<kRows>& sums) {
    Floats weight[kVectors];
    for (int64_t v = 0; v < kVectors; ++v) weight[v] = load(words + v * kLanes);
    for (int64_t row = 0; row < kRows; ++row) {
      const Floats pair = _mm512_set1_ps(x[row]);
      for (int64_t v = 0; v < kVectors; ++v) {
        sums[row][v] = bfloat16_dots(pair, weight[v], sums[row][v]);
      }
    }
  }
};
#endif

template <int64_t kRows, typename Weights>
void add_block(const float* words, int64_t inputs, const float* x, int64_t stride, const Prefetcher& prefetcher,
               float* out) {
  for (int64_t column = 0; column < kPanel; column += kTileColumns) {
    Sums<kRows> sums = {};
    Prefetcher ahead = prefetcher;
    const float* weights = words + column;
    const float* numbers = x;
    int64_t i = 0;
#pragma GCC unroll 4
    for (; i + Weights::kInputs <= inputs; i += Weights::kInputs) {
      ahead.two_lines();
      Weights::template step<kRows>(weights, numbers, stride, sums);
      weights += kPanel;
      numbers += Weights::kXWords * stride;
    }
    if constexpr (std::is_same_v<Weights, WidenedWeights>) {
      if (i < inputs) Weights::template last_step<kRows>(weights, numbers, sums);
    }
    for (int64_t row = 0; row < kRows; ++row) {
      for (int64_t v = 0; v < kVectors; ++v) {
        float* total = out + row * kPanel + column + v * kLanes;
        store(total, load(total) + sums[row][v]);
      }
    }
  }
}

template <int64_t kRows, typename Weights>
void add_rows(int64_t rows, const float* words, int64_t inputs, const float* x, int64_t stride,
              const Prefetcher& prefetcher, float* out) {
  if (rows == kRows) return add_block<kRows, Weights>(words, inputs, x, stride, prefetcher, out);
  if constexpr (kRows > 1) add_rows<kRows - 1, Weights>(rows, words, inputs, x, stride, prefetcher, out);
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

namespace {

// Blocks of a panel, kPanel words for each step, and what memory should bring meanwhile: of a weight that is in panels
// already,
class PackedBlocks {
 public:
  explicit PackedBlocks(const void* panel) : words_(static_cast<const float*>(panel)) {}

  const float* block(int64_t step) const { return words_ + step * kPanel; }
  const void* to_come(int64_t step) const { return block(step) + kBlockInputs * kPanel; }  // at least a block ahead
  static constexpr int64_t bytes(int64_t steps) { return steps * kPanel * sizeof(float); }

 private:
  const float* words_;
};

// and of one that lies row by row, whose numbers are float32 operands, or lie in pairs where operand_t is bfloat16.
template <typename operand_t, typename scalar_t>
class RowBlocks {
 public:
  RowBlocks(const scalar_t* weight, int64_t row_stride, const LinearShape& s, int64_t panel)
      : rows_(weight + panel * kPanel * row_stride), stride_(row_stride), in_(s.in), count_(s.columns(panel)) {}

  const float* block(int64_t step) {
    const int64_t first = step * kInputs, inputs = std::min(kBlockInputs, in_ - first);
    const scalar_t* rows[kPanel];
    for (int64_t i = 0; i < count_; ++i) rows[i] = rows_ + i * stride_ + first;
    pack_columns(rows, count_, inputs, kPanel, operands_, reinterpret_cast<operand_t*>(packed_));
    return packed_;
  }

  // As many numbers of the next panel, in the order of memory.
  const void* to_come(int64_t step) const { return rows_ + kPanel * stride_ + step * kInputs * kPanel; }
  static constexpr int64_t bytes(int64_t steps) { return steps * kInputs * kPanel * sizeof(scalar_t); }

 private:
  static constexpr int64_t kInputs = sizeof(float) / sizeof(operand_t);  // a step

  const scalar_t* rows_;
  int64_t stride_, in_, count_;
  alignas(64) float packed_[kBlockInputs / kInputs * kPanel];
  operand_t operands_[(kBlockInputs + 1) * kPanel];  // converted, or padded to a pair
};

// x_words: of the rows' inputs or pairs of inputs.
template <typename Weights, typename Blocks>
void multiply(const float* x, int64_t x_words, Blocks&& blocks, int64_t inputs, const LinearShape& s, int64_t row_block,
              float* out) {
  constexpr int64_t kBlockSteps = kBlockInputs / Weights::kInputs;
  const int64_t begin = row_block * kRowBlock, rows = s.block_rows(row_block);
  const int64_t tiles = ceil_div(rows, kTileRows);
  std::fill_n(out, rows * kPanel, 0.0f);
  for (int64_t step = 0; step * Weights::kInputs < inputs; step += kBlockSteps) {
    const float* block = blocks.block(step);
    const void* to_come = blocks.to_come(step);
    for (int64_t tile = 0; tile < tiles; ++tile) {
      const int64_t row = tile * kTileRows, group = (begin + row) / kRowGroup * kRowGroup;
      const int64_t stride = interleaved_rows(s.rows - group);
      const float* numbers = x + group * x_words + step * Weights::kXWords * stride + (begin + row - group);
      add_rows<kTileRows, Weights>(
          std::min(kTileRows, rows - row), block, std::min(kBlockInputs, inputs - step * Weights::kInputs), numbers,
          stride, Prefetcher(to_come, blocks.bytes(kBlockSteps), kBlockSteps, tile, tiles), out + row * kPanel);
    }
  }
}

}  // namespace

void multiply_panel(const float* x, const float* panel, const LinearShape& s, int64_t row_block, float* out) {
  multiply<Float32Weights>(x, s.in, PackedBlocks(panel), s.in, s, row_block, out);
}

void multiply_panel(const float* x, const bfloat16* panel, const LinearShape& s, int64_t row_block, float* out) {
  multiply<WidenedWeights>(x, s.in, PackedBlocks(panel), s.in, s, row_block, out);
}

template <typename scalar_t>
void multiply_rows(const float* x, const scalar_t* weight, int64_t row_stride, const LinearShape& s, int64_t panel,
                   int64_t row_block, float* out) {
  multiply<Float32Weights>(x, s.in, RowBlocks<float, scalar_t>(weight, row_stride, s, panel), s.in, s, row_block, out);
}

#if defined(__AVX512F__)

void multiply_rounded(const float* x, const bfloat16* panel, const LinearShape& s, int64_t row_block, float* out) {
  multiply<BFloat16Dots>(x, s.even_in() / 2, PackedBlocks(panel), s.even_in(), s, row_block, out);
}

void multiply_rounded_rows(const float* x, const bfloat16* weight, int64_t row_stride, const LinearShape& s,
                           int64_t panel, int64_t row_block, float* out) {
  multiply<BFloat16Dots>(x, s.even_in() / 2, RowBlocks<bfloat16, bfloat16>(weight, row_stride, s, panel), s.even_in(),
                         s, row_block, out);
}

#else

void multiply_rounded(const float*, const bfloat16*, const LinearShape&, int64_t, float*) {}
void multiply_rounded_rows(const float*, const bfloat16*, int64_t, const LinearShape&, int64_t, int64_t, float*) {}

#endif

template <typename scalar_t>
void round_rows(const scalar_t* x, int64_t row_stride, const LinearShape& s, bfloat16* out) {
  for (int64_t row = 0; row < s.rows; ++row) {
    for (int64_t i = 0; i < s.in; ++i) out[i] = to_bfloat16(to_float(x[row * row_stride + i]));
    if (s.in % 2) out[s.in] = bfloat16{0};
    out += s.even_in();
  }
}

template void interleave_rows(const float*, int64_t, const LinearShape&, float*);
template void interleave_rows(const bfloat16*, int64_t, const LinearShape&, float*);
template void multiply_rows(const float*, const float*, int64_t, const LinearShape&, int64_t, int64_t, float*);
template void multiply_rows(const float*, const bfloat16*, int64_t, const LinearShape&, int64_t, int64_t, float*);
template void multiply_rows(const float*, const float16*, int64_t, const LinearShape&, int64_t, int64_t, float*);
template void round_rows(const float*, int64_t, const LinearShape&, bfloat16*);
template void round_rows(const bfloat16*, int64_t, const LinearShape&, bfloat16*);

}  // namespace mtp_ext
