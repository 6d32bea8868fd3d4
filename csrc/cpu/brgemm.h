// torch's brgemm: products of small row-major matrices, C = A B or C += A B, accumulated in float32 (oneDNN).
//
// It is not part of the stable ABI, so it is looked up by name when it is first needed.
#pragma once

#include <cstdint>

#include "../number_types.h"

namespace mtp_ext {

struct GemmShape {
  int64_t m, n, k;
  int64_t lda, ldb, ldc;  // in elements; ldb of a bfloat16 B in columns
};

// A [m, k], B [k, n], C [m, n]; a bfloat16 B in pairs: [k / 2, n, 2]. Only where has_brgemm.
void brgemm(const GemmShape& shape, bool accumulate, const float* a, const float* b, float* c);
void brgemm(const GemmShape& shape, bool accumulate, const bfloat16* a, const bfloat16* b, float* c);

// Tries: the CPU may lack the instructions, and torch.backends.mkldnn may be switched off at any time.
template <typename operand_t>
bool has_brgemm();

// Whether brgemm multiplies bfloat16 by tiles (AMX), several times as fast as registers. MTP_EXT_MATRIX_TILES=1 says so
// of any CPU, for tests.
bool has_matrix_tiles();

// To be called by a thread when it is done with its products: lets go of AMX tiles.
void brgemm_done(bool bfloat16_operands);

}  // namespace mtp_ext
