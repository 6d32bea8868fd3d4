// How kernels reach the rows of a KV cache. Lengths and pages are values that only the device knows: what would lead
// out of the cache is skipped and reported.
#pragma once

#include "../cache_rows.h"
#include "status.cuh"

namespace mtp_ext::cuda {

// Whether prefix and nodes of request b fit into its cache.
__device__ inline bool fits(int64_t prefix, int64_t count, int64_t nodes, int64_t capacity) {
  return prefix >= 0 && count >= 0 && count <= nodes && prefix <= capacity - count;
}

// The page of logical row `row` of request b and the row in it; a page of -1 is one that there is not.
struct CachePlace {
  int64_t page, row;
};

__device__ inline CachePlace place_of(const CachePages& pages, int64_t b, int64_t row, const Status& status) {
  if (!pages.page_table) return {b, row};
  // Numbers of rows fit 32 bits, whose division takes a quarter of the instructions.
  const auto column = static_cast<uint32_t>(row) / static_cast<uint32_t>(pages.page_size);
  const int64_t entry = b * pages.page_table_stride + column;
  const int64_t page = pages.page_table[entry];
  if (page < 0 || page >= pages.pages) {
    report(status, Fault::kPage, b * pages.columns + column);
    return {-1, 0};
  }
  return {page, row - int64_t{column} * pages.page_size};
}

__device__ inline char* row_address(const CacheRows& rows, const CachePlace& place) {
  return rows.data + place.page * rows.page_stride + place.row * rows.row_stride;
}

}  // namespace mtp_ext::cuda
