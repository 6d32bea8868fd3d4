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
  kParent,
  kToken,
  kUniform,
  kTemperature,
  kTopK,
  kTopP,
  kMinP,
  kDraftRow,
  kDraftLogProb,
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
    case Fault::kParent:
      return "parents must be -1 for node 0, -2 for padding at the end and an earlier node elsewhere, parents[#] is "
             "not";
    case Fault::kToken:
      return "tokens must be from 0 to the vocabulary's last token, tokens[#] is not";
    case Fault::kUniform:
      return "uniforms must be in [0, 1), uniforms[#] is not";
    case Fault::kTemperature:
      return "temperature must be 0 or from 1e-30 to 1e+30, temperature[#] is not";
    case Fault::kTopK:
      return "top_k must be at least 1, top_k[#] is not";
    case Fault::kTopP:
      return "top_p must be in (0, 1], top_p[#] is not";
    case Fault::kMinP:
      return "min_p must be in [0, 1], min_p[#] is not";
    case Fault::kDraftRow:
      return "draft_rows must be rows of draft_log_probs and the same for siblings, draft_rows[#] is not";
    case Fault::kDraftLogProb:
      return "draft_log_probs must not be above 0, that of the token of node # is";
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
