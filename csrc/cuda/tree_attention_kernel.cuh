// The CUDA kernel of csrc/tree_attention.h; tree_attention.h says how the work is cut, tree_attention_merge.cuh what
// becomes of the parts.
//
// The job, for a request of n nodes with `group` query heads a KV head, on a prefix of p rows: read
// kv_heads * (p + n) * (head_dim + value_dim) numbers of the cache once, and multiply and add
// n * heads * (p + visible nodes) * (head_dim + value_dim) times: n * group times for each number of the cache. For a
// few nodes the cache's bytes are the floor.
//
// What it does: reads the cache once for each kTileRows rows (once in all up to 64 rows, then from L2), writes
// the states of a part and reads them in the merge, 4 * state_rows * value_dim bytes beside the
// kPartKeys * (head_dim + value_dim) * 2 at least that the part reads, and multiplies whole tiles of 16 rows by kKeys
// keys. Two stages of keys and values in shared memory: while one is multiplied, the next is under way.
//
// Shared memory: at most 96 KiB, so that a block fits every architecture from sm_80 on; 40 KiB at dims up to 64 and 80
// KiB at 128 in 16 bits. Registers: at most 168 for dims up to 64, 255 beyond. Intended: three blocks of 128 threads an
// SM at dims up to 64, two at 128 where it has more than 100 KiB, one elsewhere. One warp has 16 rows; warps without
// rows load and wait.
#pragma once

#include "attention_products.cuh"
#include "online_softmax.cuh"
#include "tree_mask.cuh"

namespace mtp_ext::cuda {

inline constexpr int kAttentionWarps = kTileRows / kWarpRows;
inline constexpr int kAttentionThreads = kAttentionWarps * kWarp;

// The tiles of a block in shared memory: queries, and two stages of keys and of values.
template <typename scalar_t, int kDim>
struct AttentionTiles {
  using Tile = SharedTile<scalar_t, kDim>;
  // A power of two that leaves all tiles within 96 KiB; float32 products of more than 32 would take too many registers.
  static constexpr int kKeys = Tile::kRowBytes == 1024 ? 8 : Tile::kRowBytes == 512 || sizeof(scalar_t) == 4 ? 32 : 64;
  static constexpr int kQueryBytes = kTileRows * Tile::kRowBytes;
  static constexpr int kStageBytes = kKeys * Tile::kRowBytes;
  static constexpr int kBytes = kQueryBytes + 4 * kStageBytes;

  char* data;

  __device__ Tile queries() const { return {data}; }
  __device__ Tile keys(int stage) const { return {data + kQueryBytes + stage * kStageBytes}; }
  __device__ Tile values(int stage) const { return {data + kQueryBytes + (2 + stage) * kStageBytes}; }
};

// Where a block stands in the work.
struct AttentionPlace {
  int64_t b;
  int kv_head, tile, part;
};

__device__ inline AttentionPlace attention_place(const TreeAttentionParams& p) {
  const uint32_t local = blockIdx.x / static_cast<uint32_t>(p.parts);
  const int64_t item = p.first_item + local;
  const int64_t head = item / p.tiles;
  return {head / p.attention.kv_heads, static_cast<int>(head % p.attention.kv_heads), static_cast<int>(item % p.tiles),
          static_cast<int>(blockIdx.x % static_cast<uint32_t>(p.parts))};
}

template <typename scalar_t, int kDim>
class AttentionBlock {
  using Tiles = AttentionTiles<scalar_t, kDim>;
  static constexpr int kKeys = Tiles::kKeys;
  static constexpr int kChunks = Tiles::Tile::kChunks;

 public:
  __device__ AttentionBlock(const TreeAttentionParams& p, const AttentionPlace& place, const TreeMask& mask,
                            char* shared)
      : p_(p),
        a_(p.attention),
        place_(place),
        mask_(mask),
        tiles_{shared},
        group_(static_cast<int>(a_.heads / a_.kv_heads)),
        rows_(static_cast<int>(a_.nodes) * group_),
        first_row_(place.tile * kTileRows),
        warp_((threadIdx.x / kWarp + blockIdx.x) % kAttentionWarps) {}  // a lone warp is not the same one everywhere

  __device__ void run(int begin, int end, bool with_tree) {
    const int last_row = min(first_row_ + kTileRows, rows_);
    KeyTiles<kKeys> tiles(mask_, first_row_ / group_, (last_row + group_ - 1) / group_, begin, end, with_tree);
    const bool works = first_row_ + warp_ * kWarpRows < rows_;
    int node[2], depth[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      node[i] = row(i) / group_;
      depth[i] = row(i) < rows_ ? mask_.depth(node[i]) : -1;
    }
    load_queries();
    uint64_t bits[2] = {};  // of the keys in this stage, which each row sees
    for (int stage = 0;; stage ^= 1) {
      wait_for_copies();
      __syncthreads();  // this stage is there (at first, the queries), and nobody reads the other one any more
      const bool more = !tiles.done();
      uint64_t next_bits[2] = {};
      if (more) {
        load(tiles, stage ^ 1);
#pragma unroll
        for (int i = 0; i < 2; ++i) next_bits[i] = tiles.bits(node[i], depth[i]);
        tiles.next();
      }
      if (works && __any_sync(kAllOfWarp, (bits[0] | bits[1]) != 0)) attend(bits, stage);
      if (!more) break;
      bits[0] = next_bits[0];
      bits[1] = next_bits[1];
    }
    join(states_);
  }

  // The part is all there is: out and lse.
  __device__ void write_result() const {
    auto* out = static_cast<scalar_t*>(p_.out);
    write_rows([&](int i, int64_t target, int head) {
      const Normalizer normalizer =
          normalize(states_.maximum[i], states_.sum[i], a_.sinks ? a_.sinks[head] : -kInfinity);
      if (threadIdx.x % 4 == 0) p_.lse[target] = normalizer.lse;
      scalar_t* row = out + target * a_.value_dim;
      for_columns(i, normalizer.scale, [&](int column, float even, float odd) {
        if (column < a_.value_dim) row[column] = from_float<scalar_t>(even);
        if (column + 1 < a_.value_dim) row[column + 1] = from_float<scalar_t>(odd);
      });
    });
  }

  __device__ void write_state() const {
    write_rows([&](int i, int64_t, int) {
      const int64_t target = int64_t{blockIdx.x} * p_.state_rows + row(i) - first_row_;
      if (threadIdx.x % 4 == 0) {
        p_.state_maximum[target] = states_.maximum[i];
        p_.state_sum[target] = states_.sum[i];
      }
      float* row = p_.state_out + target * p_.state_width;
      for_columns(i, 1.0f, [&](int column, float even, float odd) {
        if (column < p_.state_width) *reinterpret_cast<float2*>(row + column) = make_float2(even, odd);
      });
    });
  }

 private:
  // The first or second of this lane's rows, among all rows of the request and KV head.
  __device__ int row(int i) const { return first_row_ + warp_ * kWarpRows + threadIdx.x % kWarp / 4 + 8 * i; }

  __device__ void load_queries() const {
    const auto* query = static_cast<const scalar_t*>(p_.query) + place_.b * a_.query_stride.batch;
#pragma unroll 1
    for (int i = threadIdx.x; i < kTileRows * kChunks; i += kAttentionThreads) {
      const int row = first_row_ + i / kChunks;
      const scalar_t* source = nullptr;
      if (row < rows_ && row / group_ < mask_.count()) {
        const int head = place_.kv_head * group_ + row % group_;
        source = query + row / group_ * a_.query_stride.node + head * a_.query_stride.head;
      }
      load_chunk(tiles_.queries(), i / kChunks, i % kChunks, source, static_cast<int>(a_.head_dim), p_.query_vectors,
                 p_.query);
    }
  }

  // Starts to load a tile of keys and values; those that nobody sees are zeros, since 0 * NaN is NaN.
  __device__ void load(const KeyTiles<kKeys>& tiles, int stage) const {
    const auto* key = static_cast<const scalar_t*>(p_.key) + place_.kv_head * a_.key_stride.head;
    const auto* value = static_cast<const scalar_t*>(p_.value) + place_.kv_head * a_.value_stride.head;
#pragma unroll 2
    for (int i = threadIdx.x; i < kKeys * kChunks; i += kAttentionThreads) {
      const int row = i / kChunks;
      const scalar_t* key_row = nullptr;
      const scalar_t* value_row = nullptr;
      if (tiles.seen() >> row & 1) {
        const CachePlace place = place_of(a_.pages, place_.b, tiles.row() + row, p_.status);
        if (place.page >= 0) {
          key_row = key + place.page * a_.key_stride.page + place.row * a_.key_stride.row;
          value_row = value + place.page * a_.value_stride.page + place.row * a_.value_stride.row;
        }
      }
      load_chunk(tiles_.keys(stage), row, i % kChunks, key_row, static_cast<int>(a_.head_dim), p_.key_vectors, p_.key);
      load_chunk(tiles_.values(stage), row, i % kChunks, value_row, static_cast<int>(a_.value_dim), p_.value_vectors,
                 p_.value);
    }
  }

  __device__ void attend(const uint64_t (&bits)[2], int stage) {
    float scores[kKeys / 8][4];
    using Product = Products<scalar_t, kDim, kKeys>;
    Product::scores(tiles_.queries(), warp_ * kWarpRows, tiles_.keys(stage), static_cast<int>(a_.head_dim), scores);
    const float scale = a_.softcap > 0 ? a_.scale / a_.softcap : a_.scale * kLog2E;
    const uint64_t mine[2] = {bits[0] >> 2 * (threadIdx.x % 4), bits[1] >> 2 * (threadIdx.x % 4)};
#pragma unroll
    for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float score = scores[n][i] * scale;
        if (a_.softcap > 0) score = tanhf(score) * (a_.softcap * kLog2E);
        scores[n][i] = mine[i / 2] >> (8 * n + i % 2) & 1 ? score : -kInfinity;
      }
    }
    weigh(scores, states_, out_);
    Product::add_values(scores, tiles_.values(stage), static_cast<int>(a_.value_dim), out_);
  }

  // Calls body(i, row of out and lse, query head) for the lane's rows that there are.
  template <typename Body>
  __device__ void write_rows(Body&& body) const {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if (row(i) >= rows_) continue;
      const int head = place_.kv_head * group_ + row(i) % group_;
      body(i, (place_.b * a_.nodes + row(i) / group_) * a_.heads + head, head);
    }
  }

  // Calls body(column, its number, that of the next one) for this lane's columns of a row.
  template <typename Body>
  __device__ void for_columns(int i, float scale, Body&& body) const {
    const bool empty = states_.sum[i] == 0;  // then zero, even where a neighbour's value was NaN
#pragma unroll
    for (int d = 0; d < kDim / 8; ++d) {
      body(8 * d + threadIdx.x % 4 * 2, empty ? 0.0f : out_[d][2 * i] * scale,
           empty ? 0.0f : out_[d][2 * i + 1] * scale);
    }
  }

  const TreeAttentionParams& p_;
  const TreeAttention& a_;
  const AttentionPlace& place_;
  const TreeMask& mask_;
  Tiles tiles_;
  int group_, rows_;  // rows: (node, query head of the group), of this request and KV head
  int first_row_;     // of the tile
  int warp_;
  RowStates states_;
  float out_[kDim / 8][4] = {};
};

template <typename scalar_t, int kDim>
__global__ void __launch_bounds__(kAttentionThreads, kDim == 64 ? 3 : 2)
    tree_attention_kernel(const __grid_constant__ TreeAttentionParams p) {
  extern __shared__ __align__(128) char shared[];
  const AttentionPlace place = attention_place(p);
  const TreeMask mask(p, place.b);
  const int parts = part_count(mask.prefix(), p.most_parts);
  if (place.part >= parts) return;
  const int part_rows = static_cast<int>(round_up(ceil_div(mask.prefix(), parts), kPartStep));
  const int begin = max(place.part * part_rows, mask.first_row());
  const int end = min((place.part + 1) * part_rows, mask.prefix());
  AttentionBlock<scalar_t, kDim> block(p, place, mask, shared);
  block.run(begin, end, place.part == parts - 1);
  if (parts == 1) {
    block.write_result();
  } else {
    block.write_state();
  }
}

}  // namespace mtp_ext::cuda
