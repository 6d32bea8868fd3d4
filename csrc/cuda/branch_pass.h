// What the bindings of the marginalization ops share: memory on the device, the first pass over a batch of branches,
// and the second one.
#pragma once

#include <optional>
#include <type_traits>

#include "../branch_checks.h"
#include "../dispatch.h"
#include "launch.h"
#include "mixture.h"

namespace mtp_ext::cuda {

// const float* -> float
template <typename pointer_t>
using element_of = std::remove_const_t<std::remove_pointer_t<pointer_t>>;

// Device memory for `count` of these, freed with the tensor that has it, in the order of the stream.
template <typename number_t>
class DeviceArray {
 public:
  DeviceArray(const Tensor& like, int64_t count)
      : bytes_(new_empty(like, {count * static_cast<int64_t>(sizeof(number_t))}, ScalarType::Byte)),
        data_(static_cast<number_t*>(bytes_.mutable_data_ptr())) {}

  number_t* data() const { return data_; }

 private:
  Tensor bytes_;
  number_t* data_;
};

// The rows' mixtures on the device, between the two passes.
struct BranchPass {
  DeviceArray<MixtureTerm> terms;
  DeviceArray<MixtureRow> rows;

  BranchPass(const char* op, const Tensor& like, const BranchLayout& layout)
      : terms(like, checked(op, layout).total()), rows(like, layout.rows) {}

 private:
  static const BranchLayout& checked(const char* op, const BranchLayout& layout) {
    if (layout.branches > kMostBranches) {
      refuse(op, "branches must be at most ", kMostBranches, " on cuda, got ", layout.branches);
    }
    return layout;
  }
};

// The elements between the weights of two rows.
inline int64_t weight_row_stride(const Tensor& branch_log_probs) {
  return branch_log_probs.dim() == 2 ? branch_log_probs.stride(0) : 0;
}

inline PrepareMixturesParams prepare_params(const BranchPass& pass, const BranchLayout& layout,
                                            const Tensor& branch_log_probs, bool renormalize, const Launch& launch) {
  PrepareMixturesParams params{};
  params.layout = layout;
  params.weight_row_stride = weight_row_stride(branch_log_probs);
  params.log_weights = branch_log_probs.const_data_ptr<float>();
  params.renormalize = renormalize;
  params.terms = pass.terms.data();
  params.rows = pass.rows.data();
  params.status = launch.status;
  return params;
}

// The first pass. `block_maxima` [total branches, sum_blocks(vocab)], where not null, gets the blocks' largest logits.
inline BranchPass read_branches(const char* op, const Tensor& branch_logits, const Tensor& branch_log_probs,
                                const BranchLayout& layout, bool renormalize, const Launch& launch,
                                float* block_maxima = nullptr) {
  const BranchPass pass(op, branch_log_probs, layout);
  const DeviceArray<ChunkSum> sums(branch_log_probs, layout.total() * sum_chunks(layout.vocab));
  PrepareMixturesParams params = prepare_params(pass, layout, branch_log_probs, renormalize, launch);
  params.sums = sums.data();
  dispatch_logits(op, branch_logits, [&](const auto* logits) {
    const BranchSumsParams<element_of<decltype(logits)>> reading{
        layout, params.weight_row_stride, logits, params.log_weights, sums.data(), block_maxima};
    check_launch(op, sum_branches(reading, launch.stream));
  });
  check_launch(op, prepare_mixtures(params, launch.stream));
  return pass;
}

// The second pass: out [rows, vocab]; with bounds and thresholds, only blocks that reach them (MixParams).
inline void mix_rows(const char* op, const Tensor& branch_logits, const BranchPass& pass, const BranchLayout& layout,
                     float* out, const Launch& launch, const float* bounds = nullptr,
                     const float* thresholds = nullptr) {
  dispatch_logits(op, branch_logits, [&](const auto* logits) {
    MixParams<element_of<decltype(logits)>> params{};
    params.logits = logits;
    params.terms = pass.terms.data();
    params.rows = pass.rows.data();
    params.row_count = layout.rows;
    params.branch_stride = layout.branch_stride;
    params.vocab = layout.vocab;
    params.branches_per_row = ceil_div(layout.total(), layout.rows > 0 ? layout.rows : 1);
    params.out = out;
    params.bounds = bounds;
    params.thresholds = thresholds;
    check_launch(op, mix(params, launch.stream));
  });
}

}  // namespace mtp_ext::cuda
