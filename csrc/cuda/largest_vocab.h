// The longest row of logits that kernels take: columns are 32-bit numbers, and so many masses of 1 still fit a 64-bit
// sum (masses.cuh). Torch-free.
#pragma once

#include <cstdint>

namespace mtp_ext {

inline constexpr int64_t kLargestVocab = 1ll << 23;

}  // namespace mtp_ext
