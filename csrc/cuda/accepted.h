// A batch of trees of drafts on the device, and what verification says of each. Torch-free.
#pragma once

#include <cstdint>

#include "status.h"

namespace mtp_ext {

struct DraftBatch {
  int64_t batch;
  int64_t nodes;
  int64_t token_stride, parent_stride;  // of a request, in elements
  const int64_t* tokens;                // [batch, nodes]
  const int64_t* parents;               // the same: -1 for node 0, -2 for padding at the end, elsewhere an earlier node
  int64_t vocab;                        // tokens are below it; 0: whatever they are
  int64_t* path;                        // [batch, nodes], out: nodes from the root, padded with -1
  int64_t* lengths;                     // [batch], out
  int64_t* next_tokens;                 // [batch], out; -1 where there is none
  Status status;
};

}  // namespace mtp_ext
