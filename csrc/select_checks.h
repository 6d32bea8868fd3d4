// What every back end of select_branches checks; mtp_ext/ops/select_branches.py says the same sentences.
#pragma once

#include <cmath>
#include <optional>

#include "checks.h"
#include "nucleus_limits.h"
#include "number_types.h"

namespace mtp_ext {

inline constexpr int64_t kMostBranches = 1 << 20;

inline NucleusLimits check_select_branches(const Tensor& logits, double top_p, const std::optional<int64_t>& top_k,
                                           double temperature, int64_t max_branches) {
  constexpr const char* kOp = "select_branches";
  check_tensor(kOp, "logits", logits, {{"rows"}, {"vocab"}},
               {ScalarType::Float, ScalarType::BFloat16, ScalarType::Half}, logits);
  if (!(0 < top_p && top_p <= 1)) refuse(kOp, "top_p must be in (0, 1], got ", top_p);
  if (top_k) check_range(kOp, "top_k", *top_k, 1, logits.size(1));
  if (!(0 < temperature && std::isfinite(temperature))) {
    refuse(kOp, "temperature must be a positive number, got ", temperature);
  }
  if (temperature < 1e-30 || temperature > 1e30) {
    refuse(kOp, "temperature must be from 1e-30 to 1e+30, got ", temperature);
  }
  check_range(kOp, "max_branches", max_branches, 1, kMostBranches);
  return {top_p, top_k.value_or(max_branches), static_cast<float>(1 / (temperature * kLn2))};
}

}  // namespace mtp_ext
