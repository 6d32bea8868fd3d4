// What the bindings of the marginalization ops share: the batch as they received it, the first pass over it, and the
// mixtures of its rows.
#pragma once

#include <optional>

#include "../branch_checks.h"
#include "../dispatch.h"
#include "launch.h"
#include "mixture.h"

namespace mtp_ext::cuda {

// Device memory for `count` of these, freed, in the stream's order, with the tensor.
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

// The rows' mixtures on the device, after the first pass.
struct BranchPass {
  DeviceArray<MixtureTerm> terms;
  DeviceArray<MixtureRow> rows;
  int64_t branches_per_row;
};

template <typename scalar_t>
BranchPass read_branches(const char* op, const scalar_t* logits, const Tensor& branch_log_probs,
                         const BranchLayout& layout, bool renormalize, const Launch& launch) {
  const int64_t branches = layout.total();
  const DeviceArray<ChunkSum> sums(branch_log_probs, branches * sum_chunks(layout.vocab));
  BranchPass pass{{branch_log_probs, branches},
                  {branch_log_probs, layout.rows},
                  ceil_div(branches, layout.rows > 0 ? layout.rows : 1)};
  const float* log_weights = branch_log_probs.const_data_ptr<float>();
  const int64_t stride = layout.indptr ? 0 : branch_log_probs.stride(0);
  check_launch(op, sum_branches<scalar_t>({layout, stride, logits, log_weights, sums.data()}, launch.stream));
  check_launch(op, prepare_mixtures({layout, stride, log_weights, sums.data(), renormalize, pass.terms.data(),
                                     pass.rows.data(), launch.status},
                                    launch.stream));
  return pass;
}

}  // namespace mtp_ext::cuda
