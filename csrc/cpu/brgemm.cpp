#include "brgemm.h"

#include <dlfcn.h>

#include <cstdlib>
#include <exception>
#include <type_traits>

namespace mtp_ext {
namespace {

template <typename operand_t>
using Brgemm = void (*)(int64_t m, int64_t n, int64_t k, int64_t lda, int64_t ldb, int64_t ldc, bool accumulate,
                        const operand_t* a, const operand_t* b, float* c, bool in_pairs);
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
};

const TorchBrgemm& torch_brgemm() {
  static const TorchBrgemm brgemm;
  return brgemm;
}

}  // namespace

void brgemm(const GemmShape& s, bool accumulate, const float* a, const float* b, float* c) {
  torch_brgemm().float32(s.m, s.n, s.k, s.lda, s.ldb, s.ldc, accumulate, a, b, c, false);
}

void brgemm(const GemmShape& s, bool accumulate, const bfloat16* a, const bfloat16* b, float* c) {
  torch_brgemm().bf16(s.m, s.n, s.k, s.lda, s.ldb, s.ldc, accumulate, a, b, c, true);
}

template <typename operand_t>
bool has_brgemm() {
  constexpr bool kPairs = sizeof(operand_t) == 2;
  if (!(kPairs ? torch_brgemm().bf16 != nullptr : torch_brgemm().float32 != nullptr)) return false;
  constexpr int64_t kSize = 32;
  operand_t operand[kSize * kSize] = {};
  float product[kSize * kSize];
  try {  // it is there on every machine and throws where it cannot run
    brgemm({kSize, kSize, kSize, kSize, kSize, kSize}, false, operand, operand, product);
    brgemm_done(kPairs);
    return true;
  } catch (const std::exception&) {
    return false;
  }
}

template bool has_brgemm<float>();
template bool has_brgemm<bfloat16>();

bool has_matrix_tiles() {
  static const bool wanted = __builtin_cpu_supports("amx-bf16") || std::getenv("MTP_EXT_MATRIX_TILES");
  return wanted && has_brgemm<bfloat16>();
}

void brgemm_done(bool bfloat16_operands) { torch_brgemm().release(bfloat16_operands); }

}  // namespace mtp_ext
