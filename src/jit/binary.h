// SPDX-License-Identifier: Apache-2.0
// A compiled kernel, and its form in files.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "jit/compile_log.h"
#include "jit/digest.h"

namespace tilewright::jit {

struct Binary {
  std::string name;
  std::string arch;      // "sm_90a"
  Digest source;         // digest_of(KernelSource, arch)
  std::string compiler;  // "13.0": NVRTC's version
  double seconds = 0;    // that compiling took
  int shared_bytes = 0;  // dynamic, of KernelSource
  std::vector<EntryReport> entries;
  std::string cubin;
  std::string warnings;  // that the compiler had of the text, a line each; not in files

  // Of the entry that needs most.
  int max_registers() const;
  int spill_bytes() const;
  int total_shared_bytes() const;  // static and dynamic
};

// One text header, the cubin, and a checksum over both. The same on every machine.
std::string encode(const Binary& binary);

// Reads what encode() wrote from the front of `data` and removes it. Error (invalid_argument) that
// says what is damaged.
Binary decode(std::string_view& data);

}  // namespace tilewright::jit
