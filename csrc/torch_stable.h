// The only door to torch: its stable ABI, so that one build serves torch 2.13 and every later release.
// Kernels never include this file; only bindings do.
#pragma once

#ifndef TORCH_TARGET_VERSION
#define TORCH_TARGET_VERSION 0x020d000000000000  // torch 2.13
#endif

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

namespace mtp_ext {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline constexpr ScalarType kFloat32 = ScalarType::Float;
inline constexpr ScalarType kInt64 = ScalarType::Long;

inline Tensor new_empty(const Tensor& like, std::initializer_list<int64_t> sizes, ScalarType dtype) {
  return torch::stable::new_empty(like, torch::headeronly::IntHeaderOnlyArrayRef(sizes.begin(), sizes.size()),
                                  dtype);
}

}  // namespace mtp_ext
