// Products of small row-major matrices, C = A B or C += A B, accumulated in float32.
//
// torch's brgemm (oneDNN: AMX where there is AMX) where this torch has it and this CPU can run it, else a plain tile of
// our own. It is not part of the stable ABI, so it is looked up by name when the library loads.
#pragma once

#include <cstdint>

#include "../number_types.h"

namespace mtp_ext {

struct GemmShape {
  int64_t m, n, k;
  int64_t lda, ldb, ldc;  // in elements; ldb of a bfloat16 B in columns
};

// A [m, k], B [k, n], C [m, n]. n is a multiple of 16.
void gemm(const GemmShape& shape, bool accumulate, const float* a, const float* b, float* c);

// The same with bfloat16 operands, B in pairs: [k / 2, n, 2]. Only where has_bfloat16_gemm(), which tries: the CPU may
// lack the instructions, and torch.backends.mkldnn may be switched off at any time.
void gemm(const GemmShape& shape, bool accumulate, const bfloat16* a, const bfloat16* b, float* c);
bool has_bfloat16_gemm();

// To be called by a thread when it is done with its products: lets go of AMX tiles.
void gemm_done(bool bfloat16_operands);

}  // namespace mtp_ext
