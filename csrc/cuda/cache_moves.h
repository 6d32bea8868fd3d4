// Which rows can be moved 16 bytes at a time. Torch-free.
#pragma once

#include "../cache_rows.h"

namespace mtp_ext::cuda {

inline bool in_vectors(const CacheRows& rows) {
  const int64_t numbers[] = {reinterpret_cast<intptr_t>(rows.data), rows.page_stride, rows.row_stride, rows.head_stride,
                             rows.head_bytes};
  for (const int64_t number : numbers) {
    if (number % 16) return false;
  }
  return true;
}

}  // namespace mtp_ext::cuda
