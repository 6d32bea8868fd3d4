// ldmatrix, stmatrix and mma: how a tile is spread over the lanes of a warp. Lane l is in group l / 4, place l % 4.
#include "access.h"
#include "collectives.h"
#include "meetings.h"
#include "numbers.h"
#include "statistics.h"

namespace ptx_on_cpu {
namespace {

constexpr uint32_t kAllLanes = ~0u;

struct TileArgument {
  uint8_t* row;  // lane i * 8 + r names row r of matrix i
  int count;
  bool transposed;
  uint32_t fragment[4];
};

// Lane l holds elements (l / 4, l % 4 * 2) and the next of its row; transposed, of its column.
template <typename Move>
void for_each_element(void* const* arguments, Move move) {
  const int count = static_cast<TileArgument*>(arguments[0])->count;
  for (int matrix = 0; matrix < count; ++matrix) {
    for (int lane = 0; lane < 32; ++lane) {
      auto& argument = *static_cast<TileArgument*>(arguments[lane]);
      for (int half = 0; half < 2; ++half) {
        int row = lane / 4, column = lane % 4 * 2 + half;
        if (argument.transposed) std::swap(row, column);
        move(static_cast<TileArgument*>(arguments[matrix * 8 + row])->row + column * 2, argument.fragment[matrix],
             half);
      }
    }
  }
}

void compute_load(void* const* arguments, uint32_t) {
  for_each_element(arguments, [](uint8_t* element, uint32_t& held, int half) {
    const uint32_t bits = get<uint16_t>(element, 0);
    held = half ? (held & 0xffff) | bits << 16 : bits;
  });
}
void compute_store(void* const* arguments, uint32_t) {
  for_each_element(arguments,
                   [](uint8_t* element, uint32_t& held, int half) { put(element, 0, uint16_t(held >> (16 * half))); });
}

struct ProductArgument {
  MatrixFormat format;
  int k;
  const uint32_t *a, *b;
  const float* c;
  float* d;
};

float element(MatrixFormat format, uint32_t pair, int half) {
  const uint16_t bits = uint16_t(pair >> (16 * half));
  return format == MatrixFormat::kF16 ? f16_to_float(bits) : bf16_to_float(bits);
}

void compute_product(void* const* arguments, uint32_t) {
  constexpr int kRows = 16, kColumns = 8;
  float a[kRows][16], b[16][kColumns];
  const int k = static_cast<ProductArgument*>(arguments[0])->k;
  for (int lane = 0; lane < 32; ++lane) {
    const auto& argument = *static_cast<ProductArgument*>(arguments[lane]);
    const int group = lane / 4, pair = lane % 4 * 2;
    for (int half = 0; half < 2; ++half) {
      for (int i = 0; i < k / 4; ++i) {  // registers: rows g and g + 8 of columns 0..7, then of columns 8..15
        a[group + i % 2 * 8][pair + half + i / 2 * 8] = element(argument.format, argument.a[i], half);
      }
      for (int i = 0; i < k / 8; ++i) b[pair + half + i * 8][group] = element(argument.format, argument.b[i], half);
    }
  }
  for (int lane = 0; lane < 32; ++lane) {
    const auto& argument = *static_cast<ProductArgument*>(arguments[lane]);
    for (int i = 0; i < 4; ++i) {
      const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
      float sum = 0;
      for (int j = 0; j < k; ++j) sum += a[row][j] * b[j][column];
      argument.d[i] = argument.c[i] + sum;
    }
  }
}

}  // namespace

void load_matrices(Site& site, uint64_t row_address, int count, bool transposed, uint32_t* fragment) {
  TileArgument argument{nullptr, count, transposed, {}};
  if (here.lane() < uint32_t(count) * 8) {
    argument.row = const_cast<uint8_t*>(load_shared(site, row_address, 16, Strength::kWeak));
  }
  meet(site, kAllLanes, &argument, compute_load);
  for (int i = 0; i < count; ++i) fragment[i] = argument.fragment[i];
}

void store_matrices(Site& site, uint64_t row_address, int count, bool transposed, const uint32_t* fragment) {
  TileArgument argument{nullptr, count, transposed, {}};
  for (int i = 0; i < count; ++i) argument.fragment[i] = fragment[i];
  if (here.lane() < uint32_t(count) * 8) argument.row = store_shared(site, row_address, 16, Strength::kWeak);
  meet(site, kAllLanes, &argument, compute_store);
}

void multiply_matrices(Site& site, MatrixFormat format, int k, const uint32_t* a, const uint32_t* b, const float* c,
                       float* d) {
  ProductArgument argument{format, k, a, b, c, d};
  meet(site, kAllLanes, &argument, compute_product);
}

}  // namespace ptx_on_cpu
