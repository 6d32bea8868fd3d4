// The device's side of the status word.
#pragma once

#include "status.h"

namespace mtp_ext {

// Says that the value at `place` of an argument was skipped. The first fault since the last check stays.
__device__ inline void report(const Status& status, Fault fault, int64_t place) {
  const auto code = static_cast<unsigned long long>(place) << 16 | static_cast<uint32_t>(fault) << 8 | status.op;
  atomicCAS(status.word, 0ull, code);
}

}  // namespace mtp_ext
