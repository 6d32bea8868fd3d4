// The methods of verify_sampling; mtp_ext/verify.py says what they are. Torch-free.
#pragma once

namespace mtp_ext {

enum class SamplingMethod { kTargetOnly, kWithoutReplacement, kTraversal, kTypical };

// Whose siblings are drawn from a distribution that is given.
constexpr bool is_sampled(SamplingMethod method) {
  return method == SamplingMethod::kWithoutReplacement || method == SamplingMethod::kTraversal;
}

}  // namespace mtp_ext
