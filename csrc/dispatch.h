// A runtime value becomes a compile-time constant here, and an unknown one fails by name.
#pragma once

#include "checks.h"
#include "number_types.h"

namespace mtp_ext {

// Calls `body` with the data of a float32, bfloat16 or float16 tensor as a typed pointer.
template <typename Body>
void dispatch_logits(const char* op, const Tensor& tensor, Body&& body) {
  const void* data = tensor.const_data_ptr();
  switch (tensor.scalar_type()) {
    case ScalarType::Float:
      return body(static_cast<const float*>(data));
    case ScalarType::BFloat16:
      return body(static_cast<const bfloat16*>(data));
    case ScalarType::Half:
      return body(static_cast<const float16*>(data));
    default:
      refuse(op, "no kernel for ", dtype_name(tensor.scalar_type()));
  }
}

}  // namespace mtp_ext
