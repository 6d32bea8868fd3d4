// What this machine could do at best, the yardstick of the benchmarks. Prints one line:
//   bytes read per second from memory, and exponentials per second (2^y of csrc/cpu/simd.h on numbers that
//   stay in the first-level cache, added up as the kernels do), both on `threads` threads and the best of
//   nine tries.
//
//   ceilings THREADS
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#include "../csrc/cpu/simd.h"

namespace {

using mtp_ext::Floats;
using mtp_ext::kLanes;

constexpr int64_t kTries = 9;
constexpr int64_t kSums = 8;                 // independent ones: enough to hide the latency of an addition
constexpr int64_t kMemoryFloats = 64 << 20;  // 256 MiB a thread, more than any cache
constexpr int64_t kCacheFloats = 2048;       // 8 KiB
constexpr int64_t kRepeats = 16384;

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

// Seconds that body(thread) takes on all threads at once, the best of kTries.
template <typename Body>
double best_seconds(int64_t threads, const Body& body) {
  double best = 1e9;
  for (int64_t i = 0; i < kTries; ++i) {
    const auto start = std::chrono::steady_clock::now();
    std::vector<std::thread> others;
    for (int64_t thread = 1; thread < threads; ++thread) others.emplace_back(body, thread);
    body(0);
    for (std::thread& other : others) other.join();
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return best;
}

}  // namespace

int main(int argc, char** argv) {
  const int64_t threads = argc == 2 ? std::atoll(argv[1]) : 0;
  if (threads < 1) {
    std::fprintf(stderr, "usage: ceilings THREADS, at least 1\n");
    return 2;
  }
  const std::vector<float> memory(threads * kMemoryFloats, 1.0f);
  const std::vector<float> cached(kCacheFloats, -0.5f);
  std::vector<float> results(threads * 64);  // a cache line apart; keeps the work from being optimized away

  const double reading = best_seconds(threads, [&](int64_t thread) {
    results[thread * 64] = sum_of(memory.data() + thread * kMemoryFloats, kMemoryFloats, [](Floats x) { return x; });
  });
  const double exponentials = best_seconds(threads, [&](int64_t thread) {
    float total = 0;
    for (int64_t i = 0; i < kRepeats; ++i) {
      const Floats shift = mtp_ext::broadcast(total > 0 ? 0.25f : 0.5f);  // so that no repeat can be left out
      total = sum_of(cached.data(), kCacheFloats, [&](Floats x) { return mtp_ext::exp2(x + shift); });
    }
    results[thread * 64] += total;
  });

  float check = 0;
  for (const float result : results) check += result;
  std::printf("%.6g %.6g\n", sizeof(float) * static_cast<double>(memory.size()) / reading,
              check > 0 ? static_cast<double>(threads * kRepeats * kCacheFloats) / exponentials : 0.0);
}
