// A linear layer for few rows, its weight in panels of 32 output columns:
//   out[row, o] = sum_i x[row, i] weight[o, i]                                              arithmetic in float32
//
//   float32:  panels[p, i, c]    = weight[32 p + c, i]              [ceil(out / 32), in, 32]
//   bfloat16: panels[p, i, c, j] = weight[32 p + c, 2 i + j]        [ceil(out / 32), ceil(in / 2), 32, 2]
//
// Weights are read once, from front to back, for up to kRowBlock rows. A result is a chain of sums, each a chain of
// kBlockInputs products: the same for any number of rows and any storage, so that a row's bits depend on the row alone.
// A weight that lies row by row, [out, in], is laid out on the way, a block of kBlockInputs inputs at a time.
#pragma once

#include <cstdint>

#include "../number_types.h"

namespace mtp_ext {

inline constexpr int64_t kPanel = 32;      // output columns
inline constexpr int64_t kRowGroup = 16;   // rows of x that lie interleaved
inline constexpr int64_t kRowBlock = 256;  // rows for which a panel is read once
#if defined(__FMA__)
inline constexpr int64_t kBlockInputs = 64;
#else
inline constexpr int64_t kBlockInputs = 32;  // each product is rounded too
#endif

struct LinearShape {
  int64_t rows, in, out;

  int64_t panels() const { return ceil_div(out, kPanel); }
  int64_t row_blocks() const { return ceil_div(rows, kRowBlock); }
  int64_t block_rows(int64_t row_block) const {
    return rows - row_block * kRowBlock < kRowBlock ? rows - row_block * kRowBlock : kRowBlock;
  }
  int64_t columns(int64_t panel) const { return out - panel * kPanel < kPanel ? out - panel * kPanel : kPanel; }
  int64_t even_in() const { return round_up(in, 2); }
};

// The panel's place among weights that are stored in float32 or in pairs of bfloat16.
inline const float* panel_at(const float* panels, const LinearShape& shape, int64_t panel) {
  return panels + panel * shape.in * kPanel;
}
inline const bfloat16* panel_at(const bfloat16* panels, const LinearShape& shape, int64_t panel) {
  return panels + panel * shape.even_in() * kPanel;
}

// Rows of x in groups of kRowGroup, each [in, rows of the group], padded in a group of more than four rows.
int64_t interleaved_size(const LinearShape& shape);
template <typename scalar_t>
void interleave_rows(const scalar_t* x, int64_t row_stride, const LinearShape& shape, float* out);

// The outputs [rows of the block, kPanel] of one panel for the row_block-th kRowBlock rows.
void multiply_panel(const float* interleaved_x, const float* panel, const LinearShape& shape, int64_t row_block,
                    float* out);
void multiply_panel(const float* interleaved_x, const bfloat16* panel, const LinearShape& shape, int64_t row_block,
                    float* out);

// The same for a weight [out, in] that lies row by row.
template <typename scalar_t>
void multiply_rows(const float* interleaved_x, const scalar_t* weight, int64_t row_stride, const LinearShape& shape,
                   int64_t panel, int64_t row_block, float* out);

// Rows of x rounded to bfloat16: [rows, even_in], the last column a zero where `in` is odd.
template <typename scalar_t>
void round_rows(const scalar_t* x, int64_t row_stride, const LinearShape& shape, bfloat16* out);

// The product of rounded rows, whose pairs are interleaved as 32-bit words, by bfloat16 dot products summed in float32;
// only where has_bfloat16_dots().
void multiply_rounded(const float* interleaved_pairs, const bfloat16* panel, const LinearShape& shape,
                      int64_t row_block, float* out);

// The same for a weight [out, in] that lies row by row.
void multiply_rounded_rows(const float* interleaved_pairs, const bfloat16* weight, int64_t row_stride,
                           const LinearShape& shape, int64_t panel, int64_t row_block, float* out);

}  // namespace mtp_ext
