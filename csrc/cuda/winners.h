// How many candidates the best of a row are chosen among, and where they are sorted. Torch-free.
#pragma once

#include <cstdint>

namespace mtp_ext::cuda {

// Winners that are sorted in shared memory; more of them need a workspace.
inline constexpr int64_t kSortedInShared = 4096;

// Of at most `width` winners among `candidates`, as a power of two.
constexpr int64_t winner_capacity(int64_t candidates, int64_t width) {
  int64_t capacity = 2;
  while (capacity < candidates && capacity < width) capacity *= 2;
  return capacity;
}

// Of the workspace, in 64-bit numbers a row.
constexpr int64_t winner_workspace(int64_t capacity) { return capacity > kSortedInShared ? capacity : 0; }

}  // namespace mtp_ext::cuda
