// commit_: the accepted nodes' rows, moved together behind the prefix in every layer.
//   row prefix_lengths[b] + j = row prefix_lengths[b] + nodes[b, j]      for j < lengths[b];  keys and values
//   new_lengths[b] = prefix_lengths[b] + lengths[b]
// Nodes on a path ascend, so that a row's source is never before its target, and a path that is walked from the root
// never overwrites what it still needs.
#pragma once

#include <vector>

#include "cache_rows.h"

namespace mtp_ext {

struct CommitPaths {
  int64_t batch, width;  // of nodes
  int64_t capacity;      // logical rows of a request in every layer
  int64_t nodes_stride;
  const int64_t* prefix_lengths;  // [batch]
  const int64_t* nodes;           // [batch, width]
  const int64_t* lengths;         // [batch]
};

struct CommitLayer {
  CacheRows key, value;
  CachePages pages;
};

struct Commit {
  CommitPaths paths;
  std::vector<CommitLayer> layers;
};

}  // namespace mtp_ext
