// SPDX-License-Identifier: Apache-2.0
// One run of NVRTC.
#pragma once

#include "jit/binary.h"
#include "jit/kernel_source.h"

namespace tilewright::jit {

// Compiles for "sm_80", "sm_90a", ... Thread-safe; needs no GPU. Errors: compile_error with the
// kernel's name, the options, the log and where its source was saved, also for a kernel over its
// budget; not_supported without NVRTC, or with one that does not know the architecture.
Binary compile(const KernelSource& source, const std::string& arch);

}  // namespace tilewright::jit
