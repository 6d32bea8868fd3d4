// A node sees what its parent sees, and itself.
#include "tree_structure.h"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace mtp_ext {

void tree_structure(const int64_t* parents, int64_t nodes, int64_t* depths, int64_t* ancestors) {
  const int64_t words = (nodes + 63) / 64;
  for (int64_t node = 0; node < nodes; ++node) {
    const int64_t parent = parents[node];
    if (parent >= node) {
      throw std::invalid_argument("TokenTree: the parent of node " + std::to_string(node) +
                                  " must be an earlier node, got " + std::to_string(parent));
    }
    int64_t* row = ancestors + node * words;
    if (parent >= 0) {
      std::copy_n(ancestors + parent * words, words, row);
    } else {
      std::fill_n(row, words, 0);
    }
    const bool is_padding = parent < -1;
    depths[node] = is_padding ? -1 : parent == -1 ? 0 : depths[parent] + 1;
    if (!is_padding) row[node / 64] |= static_cast<int64_t>(uint64_t{1} << (node % 64));
  }
}

}  // namespace mtp_ext
