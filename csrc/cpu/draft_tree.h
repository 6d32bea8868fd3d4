// One request's tree of drafts, and the path through it that is accepted. Torch-free.
#pragma once

#include <cstdint>
#include <vector>

namespace mtp_ext {

class DraftTree {
 public:
  // tokens, parents [nodes]: -1 for the root, -2 for padding, otherwise an earlier node.
  DraftTree(const int64_t* tokens, const int64_t* parents, int64_t nodes)
      : tokens_(tokens), first_child_(nodes, -1), next_sibling_(nodes, -1) {
    count_ = 0;
    while (count_ < nodes && parents[count_] != -2) ++count_;
    for (int64_t node = count_ - 1; node > 0; --node) {
      next_sibling_[node] = first_child_[parents[node]];
      first_child_[parents[node]] = node;
    }
  }

  int64_t size() const { return static_cast<int64_t>(first_child_.size()); }  // of the nodes
  int64_t count() const { return count_; }                                    // of the nodes without the padding
  int64_t token(int64_t node) const { return tokens_[node]; }
  int64_t first_child(int64_t node) const { return first_child_[node]; }    // -1 where there is none
  int64_t next_sibling(int64_t node) const { return next_sibling_[node]; }  // the same

 private:
  const int64_t* tokens_;
  int64_t count_;
  std::vector<int64_t> first_child_, next_sibling_;
};

struct Verdict {
  std::vector<int64_t> path;  // nodes from the root
  int64_t next_token = -1;
};

// Down the children that are best(node), the target's most probable token or -1.
template <typename Best>
Verdict follow_best(const DraftTree& tree, const Best& best) {
  Verdict verdict;
  for (int64_t node = tree.count() > 0 ? 0 : -1; node >= 0;) {
    verdict.path.push_back(node);
    verdict.next_token = best(node);
    node = tree.first_child(node);
    while (node >= 0 && (verdict.next_token < 0 || tree.token(node) != verdict.next_token)) {
      node = tree.next_sibling(node);
    }
  }
  return verdict;
}

}  // namespace mtp_ext
