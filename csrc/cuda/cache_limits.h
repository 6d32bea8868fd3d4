// What the CUDA kernels ask of a cache beyond what all back ends do.
#pragma once

#include <cstdint>

#include "../checks.h"

namespace mtp_ext::cuda {

// Kernels count the rows of a request in 32 bits, and go some way beyond the last one.
inline constexpr int64_t kMostRows = int64_t{1} << 30;

inline void check_rows(const char* op, int64_t capacity) {
  if (capacity > kMostRows) refuse(op, "a request must have at most ", kMostRows, " rows on CUDA, got ", capacity);
}

}  // namespace mtp_ext::cuda
