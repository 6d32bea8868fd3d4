#include "verify_values.h"

namespace mtp_ext {

void check_parents(const char* op, const Tensor& tokens, const Tensor& parents) {
  for (int64_t b = 0; b < tokens.size(0); ++b) {
    const int64_t* row = parents.const_data_ptr<int64_t>() + b * parents.stride(0);
    for (int64_t i = 0; i < tokens.size(1); ++i) {
      const bool earlier = i > 0 && row[i] >= 0 && row[i] < i && row[i - 1] != -2;
      if (earlier || row[i] == -2 || (i == 0 && row[i] == -1)) continue;
      refuse(op, "parents must be -1 for node 0, -2 for padding at the end and an earlier node elsewhere, got parents[",
             b, ", ", i, "]=", row[i]);
    }
  }
}

void check_tokens(const char* op, const Tensor& tokens, const Tensor& parents, int64_t vocab) {
  for (int64_t b = 0; b < tokens.size(0); ++b) {
    const int64_t* row = tokens.const_data_ptr<int64_t>() + b * tokens.stride(0);
    const int64_t* links = parents.const_data_ptr<int64_t>() + b * parents.stride(0);
    for (int64_t i = 0; i < tokens.size(1) && links[i] != -2; ++i) {
      if (row[i] >= 0 && row[i] < vocab) continue;
      refuse(op, "tokens must be from 0 to ", vocab - 1, ", got tokens[", b, ", ", i, "]=", row[i]);
    }
  }
}

}  // namespace mtp_ext
