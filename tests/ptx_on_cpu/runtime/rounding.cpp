#include "rounding.h"

#include <cfenv>
#include <cmath>

namespace ptx_on_cpu {
namespace {

// The compiler knows nothing of rounding modes: volatile keeps the operation between the two switches.
template <typename T, typename Operation>
T rounded(Rounding rounding, Operation operation) {
  constexpr int kModes[] = {FE_TOWARDZERO, FE_DOWNWARD, FE_UPWARD};
  std::fesetround(kModes[int(rounding)]);
  volatile T result = operation();
  std::fesetround(FE_TONEAREST);
  return result;
}

}  // namespace

#define DEFINE_ROUNDED(T)                                                    \
  T add_rounded(Rounding rounding, T x, T y) {                               \
    volatile T a = x, b = y;                                                 \
    return rounded<T>(rounding, [&] { return a + b; });                      \
  }                                                                          \
  T multiply_rounded(Rounding rounding, T x, T y) {                          \
    volatile T a = x, b = y;                                                 \
    return rounded<T>(rounding, [&] { return a * b; });                      \
  }                                                                          \
  T divide_rounded(Rounding rounding, T x, T y) {                            \
    volatile T a = x, b = y;                                                 \
    return rounded<T>(rounding, [&] { return a / b; });                      \
  }                                                                          \
  T fma_rounded(Rounding rounding, T x, T y, T z) {                          \
    volatile T a = x, b = y, c = z;                                          \
    return rounded<T>(rounding, [&] { return std::fma(T(a), T(b), T(c)); }); \
  }                                                                          \
  T sqrt_rounded(Rounding rounding, T x) {                                   \
    volatile T a = x;                                                        \
    return rounded<T>(rounding, [&] { return std::sqrt(T(a)); });            \
  }
DEFINE_ROUNDED(float)
DEFINE_ROUNDED(double)
#undef DEFINE_ROUNDED

float to_float_rounded(Rounding rounding, double x) {
  volatile double a = x;
  return rounded<float>(rounding, [&] { return float(a); });
}

}  // namespace ptx_on_cpu
