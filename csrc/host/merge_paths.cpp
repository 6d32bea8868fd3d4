// A trie of token paths. Equal siblings are one node: the same token twice among siblings would be verified twice.
#include <map>
#include <utility>

#include "tree_builders.h"

namespace mtp_ext {

std::tuple<Integers, Integers, Integers> merge_paths(int64_t root_token, const std::vector<Integers>& paths,
                                                     int64_t budget) {
  Integers tokens{root_token}, parents{-1}, sources{-1};
  std::map<std::pair<int64_t, int64_t>, int64_t> children;  // (node, token) -> child
  for (size_t path = 0; path < paths.size(); ++path) {
    int64_t node = 0;
    for (const int64_t token : paths[path]) {
      const int64_t next = static_cast<int64_t>(tokens.size());
      const auto known = children.find({node, token});
      if (known != children.end()) {
        node = known->second;
        continue;
      }
      if (next >= budget) break;
      children[{node, token}] = next;
      tokens.push_back(token);
      parents.push_back(node);
      sources.push_back(static_cast<int64_t>(path));
      node = next;
    }
  }
  return {tokens, parents, sources};
}

}  // namespace mtp_ext
