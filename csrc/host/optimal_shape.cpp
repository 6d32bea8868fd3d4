// Dynamic programme over the number of nodes n that a subtree may use:
//   tree(n)      = 1 + forest(0, n - 1)
//   forest(r, m) = max(0, max over s of rate[r] * tree'(s) + forest(r + 1, m - s))      children of rank r and later
// tree' is the tree with one level less; where the depth has no limit, it is the tree itself.
#include <algorithm>
#include <utility>

#include "tree_builders.h"

namespace mtp_ext {

namespace {

// The values for one number of levels, and what was chosen for them.
struct Level {
  std::vector<double> tree;           // [nodes + 1]; tree[0] is not used
  std::vector<Integers> child_sizes;  // [ranks, nodes]: nodes for the child of this rank; 0: it and the rest are not
};

// `children` null: the children are of this very level.
Level best_level(const std::vector<double>& rates, int64_t nodes, const Level* children) {
  const size_t ranks = rates.size();
  Level level{std::vector<double>(nodes + 1, 1.0), std::vector<Integers>(ranks, Integers(nodes, 0))};
  const std::vector<double>& subtree = children == nullptr ? level.tree : children->tree;
  std::vector<std::vector<double>> forest(ranks + 1, std::vector<double>(nodes, 0.0));
  for (int64_t below = 1; below < nodes; ++below) {
    for (size_t rank = ranks; rank-- > 0;) {
      for (int64_t size = 1; size <= below; ++size) {
        const double value = rates[rank] * subtree[size] + forest[rank + 1][below - size];
        if (value > forest[rank][below]) {
          forest[rank][below] = value;
          level.child_sizes[rank][below] = size;
        }
      }
    }
    level.tree[below + 1] = 1.0 + forest[0][below];
  }
  return level;
}

}  // namespace

std::tuple<std::vector<Integers>, double> optimal_shape(const std::vector<double>& acceptance_rates, int64_t nodes,
                                                        int64_t max_depth) {
  const bool limited = max_depth < nodes - 1;
  std::vector<Level> levels;
  if (limited) {
    levels.push_back(best_level({}, nodes, nullptr));  // a root alone
    for (int64_t depth = 0; depth < max_depth; ++depth) {
      levels.push_back(best_level(acceptance_rates, nodes, &levels.back()));
    }
  } else {
    levels.push_back(best_level(acceptance_rates, nodes, nullptr));
  }

  struct Subtree {
    Integers path;
    size_t level;
    int64_t size;
  };
  std::vector<Integers> paths;
  std::vector<Subtree> open{{{}, levels.size() - 1, nodes}};
  while (!open.empty()) {
    const Subtree subtree = std::move(open.back());
    open.pop_back();
    const std::vector<Integers>& child_sizes = levels[subtree.level].child_sizes;
    int64_t below = subtree.size - 1;
    for (size_t rank = 0; rank < child_sizes.size() && child_sizes[rank][below] > 0; ++rank) {
      Integers path = subtree.path;
      path.push_back(static_cast<int64_t>(rank));
      paths.push_back(path);
      const int64_t size = child_sizes[rank][below];
      open.push_back({std::move(path), limited ? subtree.level - 1 : subtree.level, size});
      below -= size;
    }
  }
  std::sort(paths.begin(), paths.end(), [](const Integers& a, const Integers& b) {
    return std::make_pair(a.size(), a) < std::make_pair(b.size(), b);
  });
  return {paths, levels.back().tree[nodes]};
}

}  // namespace mtp_ext
