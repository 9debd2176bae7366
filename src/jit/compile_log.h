// SPDX-License-Identifier: Apache-2.0
// What ptxas says about a compiled kernel (--ptxas-options=-v).
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "jit/kernel_source.h"

namespace tilewright::jit {

// One entry point.
struct EntryReport {
  std::string name;
  int registers = 0;    // a thread
  int spill_bytes = 0;  // stores and loads
  int stack_bytes = 0;
  int shared_bytes = 0;  // static, a block
  int barriers = 0;
};

// Reports of the entry points in a log, in its order. Functions that are not inlined count to the
// entry before them.
std::vector<EntryReport> parse_log(std::string_view log);

// The lines that warn of the text itself.
std::string warnings_in(std::string_view log);

// Why a kernel is refused: over its budget, a performance warning, an entry point without a report.
// Empty when it is as it must be.
std::string trouble_in(const KernelSource& source, const std::vector<EntryReport>& entries,
                       std::string_view log);

}  // namespace tilewright::jit
