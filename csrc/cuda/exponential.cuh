// 2^x in one instruction, relative error 2^-22; below 2^-126 it is 0. NaN stays NaN, 2^-inf is 0.
#pragma once

namespace mtp_ext {

__device__ inline float exp2_approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

}  // namespace mtp_ext
