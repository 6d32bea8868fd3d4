// What grows a token tree: whole numbers and log-probabilities, one request at a time, no tensors.
// mtp_ext/reference/tree.py says the same in Python; mtp_ext/tree_builders.py checks the arguments.
// A tree comes back as one entry a node: node 0 is the root, parents come before children.
#pragma once

#include <cstddef>
#include <cstdint>
#include <tuple>
#include <vector>

namespace mtp_ext {

using Integers = std::vector<int64_t>;
using LogProbs = std::vector<double>;  // nats

// The trie of `paths` below a root, equal prefixes merged, cut at `budget` nodes (root included), earlier paths first.
std::tuple<Integers,  // tokens
           Integers,  // parents
           Integers>  // sources: the path that brought the node, root -1
merge_paths(int64_t root_token, const std::vector<Integers>& paths, int64_t budget);

// The `budget` nodes (root included) of highest path probability, where
//   log p(path) = sum over depth of log_probs[depth][candidate of the path at this depth].
// Candidates with a negative token or a log-probability of -inf do not exist; of equal tokens the best one counts.
// Nodes come in descending order; ties go to the earlier parent, then to the earlier candidate.
std::tuple<Integers,  // tokens
           Integers,  // parents
           LogProbs>  // of the whole path; root 0
best_first(int64_t root_token,
           const std::vector<Integers>& tokens,     // [depth, k]
           const std::vector<LogProbs>& log_probs,  // [depth, k]
           int64_t budget);

// The tree of at most `nodes` nodes (root included) and `max_depth` levels below the root with the largest
//   sum over nodes of (product over the path from the root of acceptance_rates[rank of the child]),
// the expected number of accepted tokens. Sequoia's dynamic programme, arXiv 2402.12374.
std::tuple<std::vector<Integers>,                           // paths of child ranks, one for each node but the root
           double>                                          // the expected number, root included
optimal_shape(const std::vector<double>& acceptance_rates,  // [max children of a node]
              int64_t nodes, int64_t max_depth);

}  // namespace mtp_ext
