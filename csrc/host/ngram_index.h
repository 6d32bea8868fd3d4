// One text, and how it may go on: as it did wherever its last tokens stood before. Integers, no tensors.
// mtp_ext/reference/ngram_index.py says the same in Python, with the equation.
#pragma once

#include <array>
#include <cstdint>
#include <tuple>
#include <unordered_map>
#include <vector>

#include "tree_builders.h"

namespace mtp_ext {

class NgramIndex {
 public:
  // The text goes on with these tokens. Time for each is bounded, whatever the text's length.
  void extend(const Integers& tokens);

  // The at most `nodes` most probable nodes (root, the last token, included), at most `depth` below it, in descending
  // order of path probability; ties go to the child that was found first.
  std::tuple<Integers,  // tokens
             Integers,  // parents
             LogProbs>  // of the whole path; root 0
  draft(int64_t nodes, int64_t depth) const;

 private:
  static constexpr std::array<int64_t, 3> kOrders{4, 2, 1};  // n-grams whose occurrences are chained
  static constexpr int64_t kFollowed = 64;                   // the latest occurrences of each
  static constexpr int64_t kLongest = 16;                    // longer matches count as this long

  struct Occurrence {
    int64_t end;     // where the last of the matching tokens stands
    int64_t length;  // how many match, at most kLongest
  };
  struct Child {
    int64_t token;
    double probability;
    std::vector<Occurrence> occurrences;  // the parent's, one token on
  };

  void learn(int64_t token);
  double trust(int64_t length) const;
  void chain();
  void find();
  int64_t match_length(int64_t end) const;
  std::vector<Child> children(const std::vector<Occurrence>& occurrences) const;

  Integers tokens_;
  std::array<std::unordered_map<uint64_t, int64_t>, kOrders.size()> latest_;  // hash of an n-gram -> its last place
  std::array<Integers, kOrders.size()> previous_;                             // [tokens]: the place before, or -1
  std::array<double, kLongest + 1> hits_{}, trials_{};                        // by match length
  std::vector<Occurrence> occurrences_;                                       // longest matches first, then the latest
};

}  // namespace mtp_ext
