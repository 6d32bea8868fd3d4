// What the parents of a tree imply: how deep each node is and whom it sees. One request at a time.
#pragma once

#include <cstdint>

namespace mtp_ext {

// A parent comes before its child, the root's is -1, a padding node's -2; a parent after its child throws
// std::invalid_argument, which is all that memory safety needs.
void tree_structure(const int64_t* parents,  // [nodes]
                    int64_t nodes,
                    int64_t* depths,      // [nodes]: edges from the root, -1 for padding
                    int64_t* ancestors);  // [nodes, ceil(nodes / 64)]: bit j of row i: node i is node j or below it

}  // namespace mtp_ext
