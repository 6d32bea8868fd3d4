// Instructions at which threads meet. The last to arrive computes the result for all of them.
#pragma once
#include "kernel.h"

namespace ptx_on_cpu {

enum class ShuffleMode { kIndex, kUp, kDown, kButterfly };
struct Shuffled {
  uint32_t value;
  bool in_range;
};
Shuffled shuffle(Site& site, ShuffleMode mode, uint32_t value, uint32_t lane, uint32_t clamp, uint32_t mask);

uint32_t ballot(Site& site, bool predicate, uint32_t mask);
struct Matched {
  uint32_t lanes;
  bool all_equal;
};
Matched match_any(Site& site, uint64_t value, uint32_t mask);  // lanes: those with this lane's value
Matched match_all(Site& site, uint64_t value, uint32_t mask);  // lanes: the mask if all are equal, else 0

enum class Reduction { kAdd, kMinSigned, kMaxSigned, kMinUnsigned, kMaxUnsigned, kAnd, kOr, kXor };
uint32_t reduce(Site& site, Reduction reduction, uint32_t value, uint32_t mask);
void sync_warp(Site& site, uint32_t mask);

// bar.sync; threads == 0: all of the block that have not exited.
void barrier(Site& site, uint32_t name, uint32_t threads);
void barrier_arrive(Site& site, uint32_t name, uint32_t threads);
enum class Verdict { kAnd, kOr, kCount };
uint32_t barrier_reduce(Site& site, uint32_t name, uint32_t threads, Verdict verdict, bool predicate);

// 8x8 matrices of 16-bit elements from shared memory, one to four of them.
void load_matrices(Site& site, uint64_t row_address, int count, bool transposed, uint32_t* fragment);
void store_matrices(Site& site, uint64_t row_address, int count, bool transposed, const uint32_t* fragment);

enum class MatrixFormat { kF16, kBf16 };
// D = A B + C on 16 x 8 x k tiles, k 8 or 16: fragments of k/4, k/8, 4 and 4 registers.
void multiply_matrices(Site& site, MatrixFormat format, int k, const uint32_t* a, const uint32_t* b, const float* c,
                       float* d);

[[noreturn]] void trap(Site& site);

}  // namespace ptx_on_cpu
