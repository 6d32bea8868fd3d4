// Arithmetic that rounds toward zero, down or up (.rz, .rm, .rp).
#pragma once

namespace ptx_on_cpu {

enum class Rounding { kZero, kDown, kUp };

float add_rounded(Rounding rounding, float a, float b);
float multiply_rounded(Rounding rounding, float a, float b);
float divide_rounded(Rounding rounding, float a, float b);
float fma_rounded(Rounding rounding, float a, float b, float c);
float sqrt_rounded(Rounding rounding, float a);
double add_rounded(Rounding rounding, double a, double b);
double multiply_rounded(Rounding rounding, double a, double b);
double divide_rounded(Rounding rounding, double a, double b);
double fma_rounded(Rounding rounding, double a, double b, double c);
double sqrt_rounded(Rounding rounding, double a);

float to_float_rounded(Rounding rounding, double a);

}  // namespace ptx_on_cpu
