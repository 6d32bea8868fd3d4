// The most probable token of one row of logits, ties to the lower token. Read once, in chunks that do not depend on the
// threads.
#pragma once

#include "parallel_for.h"

namespace mtp_ext {

// logits [vocab] -> token, or -1 where they hold NaN or +inf or nothing but -inf.
template <typename scalar_t>
int64_t argmax(const scalar_t* logits, int64_t vocab, const ParallelFor& parallel);

}  // namespace mtp_ext
