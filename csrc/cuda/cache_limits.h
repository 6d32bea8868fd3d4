// What the CUDA kernels ask of a cache beyond what all back ends do.
#pragma once

#include <cstdint>

#include "../checks.h"

namespace mtp_ext::cuda {

// Kernels count the rows of a request in 32 bits.
inline void check_rows(const char* op, int64_t capacity) {
  if (capacity > INT32_MAX) refuse(op, "a request must have at most ", INT32_MAX, " rows, got ", capacity);
}

}  // namespace mtp_ext::cuda
