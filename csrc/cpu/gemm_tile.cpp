#include "gemm_tile.h"

#include <dlfcn.h>

#include <exception>

#include "simd.h"

namespace mtp_ext {
namespace {

template <typename scalar_t>
using Brgemm = void (*)(int64_t m, int64_t n, int64_t k, int64_t lda, int64_t ldb, int64_t ldc, bool accumulate,
                        const scalar_t* a, const scalar_t* b, float* c, bool in_pairs);
using BrgemmRelease = void (*)(bool in_pairs);

struct TorchBrgemm {
  Brgemm<float> float32 = nullptr;
  Brgemm<bfloat16> bf16 = nullptr;
  BrgemmRelease release = nullptr;

  TorchBrgemm() {
    void* torch = dlopen("libtorch_cpu.so", RTLD_NOLOAD | RTLD_LAZY);
    if (!torch) return;
    const auto find = [&](auto& function, const char* name) {
      function = reinterpret_cast<std::decay_t<decltype(function)>>(dlsym(torch, name));
    };
    find(release, "_ZN2at6native7cpublas14brgemm_releaseEb");
    if (!release) return;
    find(float32, "_ZN2at6native7cpublas6brgemmEllllllbPKfS3_Pfb");
    find(bf16, "_ZN2at6native7cpublas6brgemmEllllllbPKN3c108BFloat16ES5_Pfb");
  }

  // It is there on every machine and throws where it cannot run.
  bool runs_bfloat16() const {
    if (!bf16) return false;
    constexpr int64_t kSize = 32;
    bfloat16 operand[kSize * kSize] = {};
    float product[kSize * kSize];
    try {
      bf16(kSize, kSize, kSize, kSize, kSize, kSize, false, operand, operand, product, true);
      release(true);
      return true;
    } catch (const std::exception&) {
      return false;
    }
  }
};

const TorchBrgemm& torch_brgemm() {
  static const TorchBrgemm brgemm;
  return brgemm;
}

// Rows x 16 columns of C in registers.
template <int64_t kRows>
void tile(const GemmShape& s, bool accumulate, const float* a, const float* b, float* c) {
  constexpr int64_t kVectors = 16 / kLanes;
  Floats sums[kRows][kVectors] = {};
  for (int64_t k = 0; k < s.k; ++k) {
    for (int64_t v = 0; v < kVectors; ++v) {
      const Floats column = load(b + k * s.ldb + v * kLanes);
      for (int64_t i = 0; i < kRows; ++i) sums[i][v] = fma(broadcast(a[i * s.lda + k]), column, sums[i][v]);
    }
  }
  for (int64_t i = 0; i < kRows; ++i) {
    for (int64_t v = 0; v < kVectors; ++v) {
      float* out = c + i * s.ldc + v * kLanes;
      store(out, accumulate ? load(out) + sums[i][v] : sums[i][v]);
    }
  }
}

}  // namespace

void gemm(const GemmShape& s, bool accumulate, const float* a, const float* b, float* c) {
  if (const auto brgemm = torch_brgemm().float32) {
    return brgemm(s.m, s.n, s.k, s.lda, s.ldb, s.ldc, accumulate, a, b, c, false);
  }
  for (int64_t column = 0; column < s.n; column += 16) {
    int64_t row = 0;
    for (; row + 4 <= s.m; row += 4) tile<4>(s, accumulate, a + row * s.lda, b + column, c + row * s.ldc + column);
    for (; row < s.m; ++row) tile<1>(s, accumulate, a + row * s.lda, b + column, c + row * s.ldc + column);
  }
}

void gemm(const GemmShape& s, bool accumulate, const bfloat16* a, const bfloat16* b, float* c) {
  torch_brgemm().bf16(s.m, s.n, s.k, s.lda, s.ldb, s.ldc, accumulate, a, b, c, true);
}

bool has_bfloat16_gemm() { return torch_brgemm().runs_bfloat16(); }

void gemm_done(bool bfloat16_operands) {
  if (const auto release = torch_brgemm().release) release(bfloat16_operands);
}

}  // namespace mtp_ext
