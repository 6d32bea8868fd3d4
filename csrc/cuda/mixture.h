// The mixture of a row's branches, the second of two passes over their logits:
//   out[v] = log sum_b exp(w[b]) softmax(logits[b])[v] = base + log sum_b 2^y[b, v]                          (nats)
//   y[b, v] = log2(e) * (logits[b, v] - log_normalizer[b]) + octaves[b]
// csrc/cpu/mixture.h says why it is split so. Between the passes, `prepare_mixtures` turns the sums of the first into
// the terms of the second. Torch-free.
#pragma once

#include <cuda_runtime_api.h>

#include "branch_sums.h"
#include "status.h"

namespace mtp_ext::cuda {

// Of a row, or of all ragged rows: the sum of their weights is an integer of 64 bits, in which each is at most 2^40.
inline constexpr int64_t kMostBranches = (1ll << 24) - 1;

struct alignas(16) MixtureTerm {
  int64_t branch;        // within its row
  float log_normalizer;  // nats
  float octaves;
};

enum class RowState : int32_t { kOrdinary, kEmpty, kBroken };  // kEmpty: every result is -inf; kBroken: NaN

// The terms of the branches of a row whose weight is not -inf: terms[first] to terms[first + count], in order.
struct MixtureRow {
  int64_t first;   // the flat number of the row's first branch
  int64_t offset;  // of its first logit, in elements
  int64_t count;
  float base;  // nats
  RowState state;
};

struct PrepareMixturesParams {
  BranchLayout layout;
  int64_t weight_row_stride;  // elements; 0 where ragged
  const float* log_weights;
  const ChunkSum* sums;       // from the first pass; unused where there are
  const double* normalizers;  // [m, 2], the center and the rest, in nats
  int64_t normalizer_stride;  // elements
  bool renormalize;
  MixtureTerm* terms;  // [total branches], out
  MixtureRow* rows;    // [rows], out
  Status status;
};

cudaError_t prepare_mixtures(const PrepareMixturesParams& params, cudaStream_t stream);

template <typename scalar_t>
struct MixParams {
  const scalar_t* logits;
  const MixtureTerm* terms;
  const MixtureRow* rows;
  int64_t row_count;
  int64_t branch_stride;  // of the logits, in elements
  int64_t vocab;
  int64_t branches_per_row;  // about: chooses between two schedules that give the same bits
  float* out;                // [rows, vocab]
  // Where not null: blocks of 512 columns whose bound is below the row's threshold are left unwritten.
  const float* bounds;      // [rows, sum_blocks(vocab)]
  const float* thresholds;  // [rows]
};

template <typename scalar_t>
cudaError_t mix(const MixParams<scalar_t>& params, cudaStream_t stream);

}  // namespace mtp_ext::cuda
