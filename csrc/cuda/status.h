// The status word: how a kernel says that it met a value it had to skip, which only the device knows (an index out of
// range), without the host waiting for it. One word a device, in pinned host memory, written only when there is
// something to say; mtp_ext.check() waits for the device, reads it and clears it. Torch-free.
#pragma once

#include <cstdint>

namespace mtp_ext {

// What was wrong. Each has its sentence in `fault_sentence`, which lacks only the op.
enum class Fault : uint32_t {
  kNone,
  kIndptr,
  kTarget,
  kLengths,
  kPage,
  kPath,
  kAncestors,
  kStart,
};

// Argument and expectation; a # stands for the place where the first bad value was seen.
inline const char* fault_sentence(Fault fault) {
  switch (fault) {
    case Fault::kIndptr:
      return "indptr must start at 0, ascend and end at the number of branches, indptr[#] does not";
    case Fault::kTarget:
      return "targets must be from 0 to the vocabulary's last token, targets[#] is not";
    case Fault::kLengths:
      return "prefix_lengths and node_counts must fit into tree and cache, those of request # do not";
    case Fault::kPage:
      return "page_table must name the cache's pages, entry # (counted over all requests) does not";
    case Fault::kPath:
      return "nodes must ascend from 0 within tree and cache for as long as lengths says, nodes[#] does not";
    case Fault::kAncestors:
      return "ancestors must have no bits beyond the nodes, row # (counted over all requests) has some";
    case Fault::kStart:
      return "starts must be at least 0, starts[#] is not";
    default:
      return "an unknown fault at #";
  }
}

// What a kernel needs to report a fault; passed to it by value. The word holds place << 16 | fault << 8 | op, or 0.
struct Status {
  unsigned long long* word;
  uint32_t op;  // its number in the host's list of those that were launched, counted from 1
};

}  // namespace mtp_ext
