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

inline int32_t to_aten_dtype(ScalarType dtype) {
  return torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype));
}

// An uninitialised contiguous tensor on the device of `like`. Asks the allocator directly: the dispatcher's
// new_empty costs a microsecond more a tensor.
inline Tensor new_empty(const Tensor& like, std::initializer_list<int64_t> sizes, ScalarType dtype) {
  constexpr size_t kMaxDimensions = 8;
  int64_t strides[kMaxDimensions] = {};
  int64_t stride = 1;
  for (size_t i = sizes.size(); i-- > 0;) {
    strides[i] = stride;
    stride *= sizes.begin()[i] > 0 ? sizes.begin()[i] : 1;
  }
  int32_t device_type = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device_type));
  AtenTensorHandle handle = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(static_cast<int64_t>(sizes.size()), sizes.begin(), strides,
                                                  to_aten_dtype(dtype), device_type, like.get_device_index(), &handle));
  return Tensor(handle);
}

}  // namespace mtp_ext
