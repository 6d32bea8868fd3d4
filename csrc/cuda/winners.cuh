// The best candidates of a row, sorted: by a search for the priority of the last of them, and a sort of those alone.
#pragma once

#include "small_sort.cuh"
#include "threshold_search.cuh"
#include "winners.h"

namespace mtp_ext::cuda {

// Bytes of shared memory that the histogram of the search and then the winners take.
constexpr size_t winner_bytes(int64_t capacity) {
  const size_t sorted = capacity > kSortedInShared ? 0 : capacity * sizeof(uint64_t);
  return sorted > sizeof(ThresholdScratch) ? sorted : sizeof(ThresholdScratch);
}

struct Winners {
  const uint64_t* priorities;  // descending
  int count;
};

// for_each(visit) calls visit(value, id) for all candidates of a thread; those of value -inf are none. `last` is the
// least priority of a winner; there are at most `capacity`. `shared` has winner_bytes(capacity); `workspace` is of this
// block.
template <typename ForEach>
__device__ Winners sort_winners(const ForEach& for_each, uint64_t last, int64_t capacity, unsigned char* shared,
                                uint64_t* workspace, int& counter) {
  const bool in_shared = capacity <= kSortedInShared;
  uint64_t* winners = in_shared ? reinterpret_cast<uint64_t*>(shared) : workspace;
  __syncthreads();  // the shared memory may still be read as something else
  if (threadIdx.x == 0) counter = 0;
  __syncthreads();
  for_each([&](float value, uint32_t id) {
    const uint64_t priority = priority_of(value, id);
    if (value > -kInfinity && priority >= last) winners[atomicAdd(&counter, 1)] = priority;
  });
  __syncthreads();
  const int count = counter;
  int padded = 1;
  while (padded < count) padded *= 2;
  for (int i = count + threadIdx.x; i < padded; i += kRowThreads) winners[i] = 0;
  if (in_shared) {
    sort_descending(reinterpret_cast<uint64_t*>(shared), padded);
  } else {
    sort_descending(winners, padded);
  }
  return {winners, count};
}

}  // namespace mtp_ext::cuda
