// What the translator writes about one kernel: its body, its instructions, its parameters, its shared memory.
#pragma once
#include <cstddef>
#include <cstdint>

namespace ptx_on_cpu {

struct Dim3 {
  uint32_t x = 1, y = 1, z = 1;
};

struct Region;

// One instruction that touches memory or meets other threads. `region` remembers which allocation it touched last.
struct Site {
  const char* text;    // the instruction as nvcc wrote it
  int line;            // of the PTX file
  const char* source;  // "file.cuh:12", or "" where nvcc was not told -lineinfo
  Region* region;
  uint32_t launch;  // in which `region` was looked up
};

struct Parameter {
  uint32_t offset, bytes;
};

struct SharedVariable {
  const char* name;
  uint32_t offset, bytes;
};

struct Kernel {
  const char* name;  // mangled, as in the PTX and in __cudaRegisterFunction
  const char* file;  // the PTX file
  int target;        // the least compute capability that it may be compiled for: 80 of compute_80
  void (*body)(const uint8_t* parameters);
  Site* sites;
  int site_count;
  const Parameter* parameters;
  int parameter_count;
  uint32_t parameter_bytes;
  const SharedVariable* shared;
  int shared_count;
  uint32_t shared_extent;  // where dynamic shared memory begins; static variables lie apart, so that overruns show
  uint32_t shared_bytes;   // of static shared memory, as a GPU would lay it out
  uint32_t max_threads;    // of .maxntid or .reqntid; 1024 where the kernel states none
  bool exact_threads;      // .reqntid
};

// Every generated file announces its kernel when its library is loaded, and its variables in global memory.
struct Announcement {
  explicit Announcement(const Kernel& kernel);
};
struct ModuleVariable {
  ModuleVariable(const char* name, const void* data, size_t bytes);
};

}  // namespace ptx_on_cpu
