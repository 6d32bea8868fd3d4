// Counts, per instruction, what a warp's accesses cost a GPU: sectors of 32 bytes of global memory, wavefronts of
// shared memory (one is ideal for up to 128 bytes that are served together; each more is a bank conflict). A request is
// what the lanes of a warp do when each comes to an instruction for the n-th time; where lanes go round a loop a
// different number of times, that may join what a GPU does apart.
#pragma once
#include <string>

#include "here.h"

namespace ptx_on_cpu {

extern bool counting;

void count_global(const Site& site, uint64_t address, uint32_t bytes);
void count_shared(const Site& site, uint64_t address, uint32_t bytes);
void finish_counting_block();
// JSON: a list of {kernel, instruction, line, source, memory, bytes, requests, transactions, ideal}.
std::string statistics_json();
void clear_statistics();

}  // namespace ptx_on_cpu
