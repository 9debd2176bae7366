// SPDX-License-Identifier: Apache-2.0
// What is to be compiled: a text, its entry points, and what it may cost.
#pragma once

#include <string>
#include <vector>

#include "jit/digest.h"
#include "jit/embedded.h"

namespace tilewright::jit {

// What a compiled kernel may need. One that needs more is an Error: it would run, but at a fraction
// of its speed.
struct Budget {
  int max_registers = 255;              // a thread
  bool allow_stack = false;             // a stack frame, or registers spilled to it, of any size
  int max_spill_bytes = 0;              // stores and loads, and as much of a stack frame
  bool allow_performance_loss = false;  // ptxas says "Potential Performance Loss"
};

struct KernelSource {
  // For people and messages: lists show it, entries of the cache carry it. Two sources of one name
  // may differ.
  std::string name;
  std::string source;                // includes embedded files by their names
  std::vector<std::string> entries;  // extern "C" __global__ functions
  Budget budget;
  int shared_bytes = 0;              // the most dynamic shared memory that a launch takes
  bool large_clusters = false;       // launches may have clusters of more than 8 blocks
  std::vector<std::string> options;  // for NVRTC, besides its usual ones
};

// The embedded files that a text includes, directly or not. Error (internal) for one that is not
// embedded.
std::vector<const EmbeddedFile*> included_files(const std::string& source);

// The options that NVRTC is given for an architecture ("sm_80").
std::vector<std::string> compile_options(const KernelSource& source, const std::string& arch);

// Of everything that decides what is compiled, but for the compiler's version: the source with what
// it includes, options, architecture, budget.
Digest digest_of(const KernelSource& source, const std::string& arch);

}  // namespace tilewright::jit
