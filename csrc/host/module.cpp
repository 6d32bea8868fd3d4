// The pybind11 module `_host`: integers and strings, no tensors.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <string>
#include <utility>

#include "ngram_index.h"
#include "tree_builders.h"
#include "tree_structure.h"

namespace py = pybind11;

namespace {

std::string compiler() {
#if defined(__clang__)
  return "clang " __clang_version__;
#elif defined(__GNUC__)
  return "gcc " __VERSION__;
#else
  return "unknown";
#endif
}

using IntegerArray = py::array_t<int64_t, py::array::c_style | py::array::forcecast>;

std::pair<IntegerArray, IntegerArray> tree_structure(const IntegerArray& parents) {
  if (parents.ndim() != 2) throw py::value_error("tree_structure: parents must be [batch, nodes]");
  const py::ssize_t batch = parents.shape(0), nodes = parents.shape(1), words = (nodes + 63) / 64;
  IntegerArray depths({batch, nodes}), ancestors({batch, nodes, words});
  for (py::ssize_t request = 0; request < batch; ++request) {
    mtp_ext::tree_structure(parents.data() + request * nodes, nodes, depths.mutable_data() + request * nodes,
                            ancestors.mutable_data() + request * nodes * words);
  }
  return {std::move(depths), std::move(ancestors)};
}

}  // namespace

PYBIND11_MODULE(_host, m) {
  m.doc() = "Host-side helpers of mtp_ext: integers and strings, no tensors.";
  m.def("compiler", &compiler, "The compiler that built the libraries, with its version.");
  m.def("tree_structure", &tree_structure, py::arg("parents"),
        "Depths [batch, nodes] and ancestors [batch, nodes, words] of trees.");
  m.def("merge_paths", &mtp_ext::merge_paths, py::arg("root_token"), py::arg("paths"), py::arg("budget"),
        "The trie of token paths below a root: tokens, parents and source paths of its nodes.");
  m.def("best_first", &mtp_ext::best_first, py::arg("root_token"), py::arg("tokens"), py::arg("log_probs"),
        py::arg("budget"),
        "The most probable nodes under independent depths: tokens, parents and path log-probabilities.");
  m.def("optimal_shape", &mtp_ext::optimal_shape, py::arg("acceptance_rates"), py::arg("nodes"), py::arg("max_depth"),
        "The tree with most accepted tokens: paths of child ranks, and their expected number.");
  py::class_<mtp_ext::NgramIndex>(m, "NgramIndex", "One text, and how it may go on by its own n-grams.")
      .def(py::init<>())
      .def("extend", &mtp_ext::NgramIndex::extend, py::arg("tokens"), "The text goes on with these tokens.")
      .def("draft", &mtp_ext::NgramIndex::draft, py::arg("nodes"), py::arg("depth"),
           "The most probable continuations: tokens, parents and path log-probabilities.");
}
