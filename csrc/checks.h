// One voice for every refusal: `op: argument must be EXPECTED, got WHAT CAME`. mtp_ext/ops/checks.py says the
// same sentences for the reference; tests compare the two word for word.
#pragma once

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <sstream>
#include <stdexcept>
#include <string>

#include "torch_stable.h"

namespace mtp_ext {

constexpr int64_t kAnySize = -1;

// One dimension of an expected shape: [rows=8, branches=4, vocab] has two that are known and one that is not.
struct Dimension {
  const char* name;
  int64_t size = kAnySize;
};

template <typename... Parts>
[[noreturn]] void refuse(const char* op, const Parts&... parts) {
  std::ostringstream sentence;
  sentence << op << ": ";
  (sentence << ... << parts);
  throw std::runtime_error(sentence.str());
}

inline std::string dtype_name(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Float:
      return "float32";
    case ScalarType::BFloat16:
      return "bfloat16";
    case ScalarType::Half:
      return "float16";
    case ScalarType::Double:
      return "float64";
    case ScalarType::Long:
      return "int64";
    case ScalarType::Int:
      return "int32";
    case ScalarType::Short:
      return "int16";
    case ScalarType::Char:
      return "int8";
    case ScalarType::Byte:
      return "uint8";
    case ScalarType::Bool:
      return "bool";
    case ScalarType::ComplexFloat:
      return "complex64";
    case ScalarType::ComplexDouble:
      return "complex128";
    case ScalarType::Float8_e4m3fn:
      return "float8_e4m3fn";
    case ScalarType::Float8_e5m2:
      return "float8_e5m2";
    default:
      return "dtype " + std::to_string(static_cast<int>(dtype));
  }
}

inline std::string device_name(const Tensor& tensor) {
  if (tensor.is_cpu()) return "cpu";
  return (tensor.is_cuda() ? "cuda:" : "device:") + std::to_string(tensor.get_device_index());
}

// Without their names: this is asked of every tensor of every call.
inline bool same_device(const Tensor& a, const Tensor& b) {
  if (a.get() == b.get()) return true;
  if (a.is_cpu()) return b.is_cpu();
  return a.is_cuda() == b.is_cuda() && !b.is_cpu() && a.get_device_index() == b.get_device_index();
}

inline std::string describe(const Tensor& tensor) {
  std::ostringstream text;
  text << "[";
  for (int64_t i = 0; i < tensor.dim(); ++i) text << (i ? ", " : "") << tensor.size(i);
  text << "] " << dtype_name(tensor.scalar_type()) << " on " << device_name(tensor);
  return text.str();
}

inline std::string describe(std::initializer_list<Dimension> shape, std::initializer_list<ScalarType> dtypes) {
  std::ostringstream text;
  text << "[";
  const char* separator = "";
  for (const Dimension& dimension : shape) {
    text << separator << dimension.name;
    if (dimension.size != kAnySize) text << "=" << dimension.size;
    separator = ", ";
  }
  text << "] ";
  size_t i = 0;
  for (const ScalarType dtype : dtypes) {
    if (i > 0) text << (i + 1 == dtypes.size() ? " or " : ", ");
    text << dtype_name(dtype);
    ++i;
  }
  return text.str();
}

// Shape, dtype, device (that of `like`) and a contiguous last dimension.
inline void check_tensor(const char* op, const char* argument, const Tensor& tensor,
                         std::initializer_list<Dimension> shape, std::initializer_list<ScalarType> dtypes,
                         const Tensor& like) {
  const auto sizes = tensor.sizes();
  bool fits = sizes.size() == shape.size() && same_device(tensor, like);
  for (size_t i = 0; fits && i < shape.size(); ++i) {
    const int64_t expected = shape.begin()[i].size;
    fits = expected == kAnySize || sizes[i] == expected;
  }
  const ScalarType dtype = tensor.scalar_type();
  if (!fits || std::find(dtypes.begin(), dtypes.end(), dtype) == dtypes.end()) {
    refuse(op, argument, " must be ", describe(shape, dtypes), " on ", device_name(like), ", got ", describe(tensor));
  }
  if (sizes.empty() || sizes.back() <= 1) return;
  const int64_t stride = tensor.strides().back();
  if (stride != 1) {
    refuse(op, argument, " must be contiguous in its last dimension, got stride ", stride,
           "; call .contiguous() on it");
  }
}

// A number from `low` to `high`.
inline void check_range(const char* op, const char* argument, int64_t value, int64_t low, int64_t high) {
  if (value < low || value > high) {
    refuse(op, argument, " must be from ", low, " to ", high, ", got ", value);
  }
}

}  // namespace mtp_ext
