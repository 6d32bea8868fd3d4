// What this machine could do at best, the yardstick of the benchmarks: bytes read per second from memory; exponentials
// per second (2^y of csrc/cpu/simd.h on numbers that stay in the first-level cache, added up as the kernels do); and
// operations per second, two a multiply-add, of torch's brgemm. Each on `threads` threads at once, the best of nine
// tries.
//
// A shared library, for a process that has loaded torch, since that is where csrc/cpu/brgemm.cpp looks for it.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "../csrc/cpu/brgemm.h"
#include "../csrc/cpu/simd.h"

namespace {

using mtp_ext::Floats;
using mtp_ext::kLanes;

constexpr int64_t kTries = 9;
constexpr int64_t kSums = 8;                 // independent ones: enough to hide the latency of an addition
constexpr int64_t kMemoryFloats = 64 << 20;  // 256 MiB a thread, more than any cache
constexpr int64_t kCacheFloats = 2048;       // 8 KiB
constexpr int64_t kRepeats = 16384;
constexpr int64_t kRows = 256, kKeys = 256, kDim = 128;  // of the two products
constexpr int64_t kProducts = 32;
constexpr int64_t kApart = 64;  // floats between the results of two threads: more than a cache line

// The sum of f(x) over `count` numbers, a multiple of kSums registers.
template <typename Function>
float sum_of(const float* x, int64_t count, const Function& f) {
  Floats sums[kSums] = {};
  for (int64_t i = 0; i < count; i += kSums * kLanes) {
    for (int64_t j = 0; j < kSums; ++j) sums[j] += f(mtp_ext::load(x + i + j * kLanes));
  }
  for (int64_t j = 1; j < kSums; ++j) sums[0] += sums[j];
  return mtp_ext::sum(sums[0]);
}

// Seconds that body(thread) takes on all threads at once, the best of kTries. An untimed one goes before: each thread
// compiles its matrix products when it first needs them.
template <typename Body>
double best_seconds(int64_t threads, const Body& body) {
  double best = 1e9;
  std::atomic<int64_t> arrivals{0};
  const auto meet = [&](int64_t meetings) {
    for (++arrivals; arrivals < meetings * threads;) std::this_thread::yield();
  };
  const auto work = [&](int64_t thread) {
    body(thread);
    for (int64_t i = 0; i < kTries; ++i) {
      meet(2 * i + 1);
      const auto start = std::chrono::steady_clock::now();
      body(thread);
      meet(2 * i + 2);
      const auto end = std::chrono::steady_clock::now();
      if (thread == 0) best = std::min(best, std::chrono::duration<double>(end - start).count());
    }
  };
  std::vector<std::thread> others;
  for (int64_t thread = 1; thread < threads; ++thread) others.emplace_back(work, thread);
  work(0);
  for (std::thread& other : others) other.join();
  return best;
}

double bytes_per_second(int64_t threads) {
  const std::vector<float> memory(threads * kMemoryFloats, 1.0f);
  std::vector<float> sums(threads * kApart);
  const double seconds = best_seconds(threads, [&](int64_t thread) {
    sums[thread * kApart] = sum_of(memory.data() + thread * kMemoryFloats, kMemoryFloats, [](Floats x) { return x; });
  });
  return sizeof(float) * static_cast<double>(memory.size()) / seconds;
}

double exponentials_per_second(int64_t threads) {
  const std::vector<float> numbers(kCacheFloats, -0.5f);
  std::vector<float> sums(threads * kApart);
  const double seconds = best_seconds(threads, [&](int64_t thread) {
    float total = 0;
    for (int64_t i = 0; i < kRepeats; ++i) {
      const Floats shift = mtp_ext::broadcast(total > 0 ? 0.25f : 0.5f);  // so that no repeat can be left out
      total = sum_of(numbers.data(), kCacheFloats, [&](Floats x) { return mtp_ext::exp2(x + shift); });
    }
    sums[thread * kApart] += total;
  });
  return static_cast<double>(threads * kRepeats * kCacheFloats) / seconds;
}

// The two products of a block of attention, scores and weighted values, on packed operands that stay in the cache.
template <typename operand_t>
double operations_per_second(int64_t threads) {
  if (!mtp_ext::has_brgemm<operand_t>()) return 0;
  const double seconds = best_seconds(threads, [&](int64_t) {
    const std::vector<operand_t> rows(kRows * kKeys), packed(kKeys * kDim);
    std::vector<float> product(kRows * kKeys);
    for (int64_t i = 0; i < kProducts; ++i) {
      mtp_ext::brgemm({kRows, kKeys, kDim, kDim, kKeys, kKeys}, false, rows.data(), packed.data(), product.data());
      mtp_ext::brgemm({kRows, kDim, kKeys, kKeys, kDim, kDim}, true, rows.data(), packed.data(), product.data());
    }
    mtp_ext::brgemm_done(std::is_same_v<operand_t, mtp_ext::bfloat16>);
  });
  return static_cast<double>(threads * kProducts * 4 * kRows * kKeys * kDim) / seconds;
}

}  // namespace

// rates [4]: bytes, exponentials, float32 operations and bfloat16 operations, in a second on `threads` threads. Where
// this CPU has no bfloat16 products, the kernels widen, and the float32 rate is theirs.
extern "C" __attribute__((visibility("default"))) void measure_ceilings(int64_t threads, double* rates) {
  rates[0] = bytes_per_second(threads);
  rates[1] = exponentials_per_second(threads);
  rates[2] = operations_per_second<float>(threads);
  rates[3] = std::max(operations_per_second<mtp_ext::bfloat16>(threads), rates[2]);
}
