// The rows of a KV cache as bytes, for the ops that move rows and do not compute with them.
#pragma once

#include <cstdint>

namespace mtp_ext {

// One layer's keys or values [batch, capacity, heads, dim] or [page, page_size, heads, dim], or the nodes' own rows
// [batch, nodes, heads, dim]. Strides and sizes in bytes; `page` is the batch dimension where there are no pages.
struct CacheRows {
  char* data;
  int64_t page_stride, row_stride, head_stride;
  int64_t heads, head_bytes;
};

// Where logical row r of request b lies: row r % page_size of page page_table[b, r / page_size], or row r of b itself.
struct CachePages {
  const int64_t* page_table;  // [batch, columns]; null: not paged
  int64_t page_table_stride, columns;
  int64_t pages;      // there are; the batch where the cache is not paged
  int64_t page_size;  // rows a page; the capacity where the cache is not paged

  int64_t page(int64_t b, int64_t row) const {
    return page_table ? page_table[b * page_table_stride + row / page_size] : b;
  }
  int64_t place(int64_t row) const { return page_table ? row % page_size : row; }
};

}  // namespace mtp_ext
