#include "mix_layers.h"
#include "simd.h"

namespace mtp_ext {
namespace {

constexpr int64_t kHeads = 4;                             // of one register tile
constexpr int64_t kVectors = kVectorBytes == 64 ? 4 : 2;  // of each of its heads: all registers but those for a layer
constexpr int64_t kTile = kVectors * kLanes;
// Memory is read in pieces of a layer, 2 and 4 KiB of float32, each fetched while the one before it is worked on: all
// layers at a time, 256 bytes of each, took 2.5 times as long, and so did pieces that were not fetched ahead.
constexpr int64_t kChunk = 512;   // numbers of a mixture
constexpr int64_t kGroup = 4;     // layers that are added at a time
constexpr int64_t kBlock = 1024;  // numbers of a product, summed in float32

template <typename scalar_t>
void prefetch(const scalar_t* data, int64_t count) {
  const char* bytes = reinterpret_cast<const char*>(data);
  for (int64_t i = 0; i < count * static_cast<int64_t>(sizeof(scalar_t)); i += 64) __builtin_prefetch(bytes + i, 0, 3);
}

// Layers that are read together, and for each of them where those after them begin.
template <typename scalar_t>
struct Group {
  const scalar_t* layers[kGroup];
  const scalar_t* next[kGroup];
  int64_t size;
};

// sums[h, i] += sum over the group of weights[h, l] layers[l, i]
template <int64_t heads, typename scalar_t>
void add_group(const Group<scalar_t>& group, const float* weights, int64_t stride, int64_t count,
               float (*sums)[kChunk]) {
  int64_t i = 0;
  for (; i + kTile <= count; i += kTile) {
    Floats tile[heads][kVectors];
    for (int64_t h = 0; h < heads; ++h) {
      for (int64_t v = 0; v < kVectors; ++v) tile[h][v] = load(sums[h] + i + v * kLanes);
    }
    for (int64_t l = 0; l < group.size; ++l) {
      prefetch(group.next[l] + i, kTile);
      Floats numbers[kVectors];
      for (int64_t v = 0; v < kVectors; ++v) numbers[v] = load(group.layers[l] + i + v * kLanes);
      for (int64_t h = 0; h < heads; ++h) {
        const Floats weight = broadcast(weights[h * stride + l]);
        for (int64_t v = 0; v < kVectors; ++v) tile[h][v] = fma(weight, numbers[v], tile[h][v]);
      }
    }
    for (int64_t h = 0; h < heads; ++h) {
      for (int64_t v = 0; v < kVectors; ++v) store(sums[h] + i + v * kLanes, tile[h][v]);
    }
  }
  for (; i < count; i += kLanes) {
    const int64_t lanes = std::min(kLanes, count - i);
    for (int64_t l = 0; l < group.size; ++l) {
      const Floats numbers = load_partial(group.layers[l] + i, lanes, 0.0f);
      for (int64_t h = 0; h < heads; ++h) {
        store(sums[h] + i, fma(broadcast(weights[h * stride + l]), numbers, load(sums[h] + i)));
      }
    }
  }
}

// Heads [0, heads), `count` <= kChunk numbers from `begin`.
template <int64_t heads, typename scalar_t>
void mix_chunk(const scalar_t* const* layers, const float* weights, scalar_t* const* out, int64_t layer_count,
               int64_t begin, int64_t count) {
  alignas(64) float sums[heads][kChunk] = {};
  for (int64_t first = 0; first < layer_count; first += kGroup) {
    Group<scalar_t> group;
    group.size = std::min(kGroup, layer_count - first);
    for (int64_t l = 0; l < group.size; ++l) {
      const int64_t after = first + kGroup + l;
      group.layers[l] = layers[first + l] + begin;
      group.next[l] = after < layer_count ? layers[after] + begin : layers[l] + begin + kChunk;
    }
    add_group<heads>(group, weights + first, layer_count, count, sums);
  }
  for (int64_t h = 0; h < heads; ++h) {
    for (int64_t i = 0; i < count; i += kLanes) {
      store_lanes(out[h] + begin + i, std::min(kLanes, count - i), load(sums[h] + i));
    }
  }
}

// The products of heads [0, heads) with one layer over [begin, end); meanwhile `next` is fetched.
template <int64_t heads, typename scalar_t>
void add_products(const scalar_t* const* grad, const scalar_t* x, const scalar_t* next, int64_t begin, int64_t end,
                  double* products, int64_t stride) {
  Floats sums[heads][2] = {};
  int64_t i = begin;
  for (; i + 2 * kLanes <= end; i += 2 * kLanes) {
    prefetch(next + i - begin, 2 * kLanes);
    const Floats first = load(x + i), second = load(x + i + kLanes);
    for (int64_t h = 0; h < heads; ++h) {
      sums[h][0] = fma(load(grad[h] + i), first, sums[h][0]);
      sums[h][1] = fma(load(grad[h] + i + kLanes), second, sums[h][1]);
    }
  }
  for (; i < end; i += kLanes) {
    const int64_t lanes = std::min(kLanes, end - i);
    const Floats numbers = load_partial(x + i, lanes, 0.0f);
    for (int64_t h = 0; h < heads; ++h) sums[h][0] = fma(load_partial(grad[h] + i, lanes, 0.0f), numbers, sums[h][0]);
  }
  for (int64_t h = 0; h < heads; ++h) products[h * stride] += static_cast<double>(sum(sums[h][0] + sums[h][1]));
}

// Calls body with the number of heads of each register tile, and its first head.
template <typename Body>
void for_each_head_tile(int64_t heads, const Body& body) {
  int64_t h = 0;
  for (; h + kHeads <= heads; h += kHeads) body(std::integral_constant<int64_t, kHeads>{}, h);
  if (heads - h == 3) body(std::integral_constant<int64_t, 3>{}, h);
  if (heads - h == 2) body(std::integral_constant<int64_t, 2>{}, h);
  if (heads - h == 1) body(std::integral_constant<int64_t, 1>{}, h);
}

}  // namespace

template <typename scalar_t>
void mix_layers(const scalar_t* const* layers, const float* weights, scalar_t* const* out, int64_t layer_count,
                int64_t heads, int64_t count) {
  for (int64_t begin = 0; begin < count; begin += kChunk) {
    for_each_head_tile(heads, [&](auto tile, int64_t h) {
      mix_chunk<tile>(layers, weights + h * layer_count, out + h, layer_count, begin, std::min(kChunk, count - begin));
    });
  }
}

template <typename scalar_t>
void add_layer_products(const scalar_t* const* grad, const scalar_t* const* layers, double* products,
                        int64_t layer_count, int64_t heads, int64_t count) {
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const int64_t end = std::min(begin + kBlock, count);
    for (int64_t l = 0; l < layer_count; ++l) {
      const scalar_t* next = l + 1 < layer_count ? layers[l + 1] + begin : layers[0] + end;
      for_each_head_tile(heads, [&](auto tile, int64_t h) {
        add_products<tile>(grad + h, layers[l], next, begin, end, products + h * layer_count + l, layer_count);
      });
    }
  }
}

#define MTP_EXT_INSTANTIATE(scalar_t)                                                                          \
  template void mix_layers(const scalar_t* const*, const float*, scalar_t* const*, int64_t, int64_t, int64_t); \
  template void add_layer_products(const scalar_t* const*, const scalar_t* const*, double*, int64_t, int64_t, int64_t);
MTP_EXT_INSTANTIATE(float)
MTP_EXT_INSTANTIATE(bfloat16)
MTP_EXT_INSTANTIATE(float16)
#undef MTP_EXT_INSTANTIATE

}  // namespace mtp_ext
