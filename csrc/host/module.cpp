// The pybind11 module `_host`: integers and strings, no tensors.
#include <pybind11/pybind11.h>

#include <string>

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

}  // namespace

PYBIND11_MODULE(_host, m) {
  m.doc() = "Host-side helpers of mtp_ext: integers and strings, no tensors.";
  m.def("compiler", &compiler, "The compiler that built the libraries, with its version.");
}
