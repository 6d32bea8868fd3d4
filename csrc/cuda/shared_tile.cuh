// A tile of rows in shared memory. Rows are cut into chunks of 16 bytes; chunk c of row r lies at c ^ (r % 8), so that
// the same chunk of eight rows (what ldmatrix reads) and eight chunks of one row (what a copy writes) each cover all
// banks once.
#pragma once

#include <cstdint>

namespace mtp_ext::cuda {

inline constexpr int kChunkBytes = 16;

template <typename scalar_t, int kDim>
struct SharedTile {
  static constexpr int kRowBytes = kDim * static_cast<int>(sizeof(scalar_t));
  static constexpr int kChunks = kRowBytes / kChunkBytes;  // a row; at least 8
  static constexpr int kChunkNumbers = kChunkBytes / static_cast<int>(sizeof(scalar_t));

  char* data;

  __device__ char* chunk(int row, int chunk) const {
    return data + row * kRowBytes + (chunk ^ (row & 7)) * kChunkBytes;
  }
};

__device__ inline uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// Copies `bytes` <= 16 and fills up with zeros; both addresses start on 16 bytes.
__device__ inline void copy_async(void* target, const void* source, int bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(target)), "l"(source), "r"(bytes));
}

__device__ inline void wait_for_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }

// Chunk `chunk` of a row of `dim` numbers; zeros beyond it, and everywhere where the row is null. `vectors`: rows start
// on 16 bytes, and the copy is asynchronous.
template <typename scalar_t, int kDim>
__device__ void load_chunk(const SharedTile<scalar_t, kDim>& tile, int row, int chunk, const scalar_t* source, int dim,
                           bool vectors, const void* anywhere) {
  constexpr int kNumbers = SharedTile<scalar_t, kDim>::kChunkNumbers;
  const int count = source ? max(0, min(kNumbers, dim - chunk * kNumbers)) : 0;
  char* target = tile.chunk(row, chunk);
  if (vectors) {
    copy_async(target, count > 0 ? source + chunk * kNumbers : anywhere, count * static_cast<int>(sizeof(scalar_t)));
    return;
  }
  auto* numbers = reinterpret_cast<scalar_t*>(target);
#pragma unroll 1
  for (int i = 0; i < kNumbers; ++i) numbers[i] = i < count ? source[chunk * kNumbers + i] : scalar_t{};
}

}  // namespace mtp_ext::cuda
