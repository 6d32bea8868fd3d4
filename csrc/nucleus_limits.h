// How many tokens select_branches keeps of a row. Torch-free.
#pragma once

#include <cstdint>

namespace mtp_ext {

struct NucleusLimits {
  double top_p;   // in (0, 1]; 1 keeps every token of non-zero probability
  int64_t width;  // at most so many tokens
  float scale;    // octaves in a logit: log2(e) / temperature
};

}  // namespace mtp_ext
