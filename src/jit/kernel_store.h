// SPDX-License-Identifier: Apache-2.0
// All compiled kernels of the process: from memory, packs, the disk, or the compiler, in this
// order.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "jit/binary.h"
#include "jit/kernel_source.h"

namespace tilewright::jit {

struct Obtained {
  std::shared_ptr<const Binary> binary;
  bool from_cache =
      false;  // it was not compiled by this call, nor by one that this call waited for
};

// Thread-safe: concurrent requests of one kernel compile it once, others go side by side. Errors as
// compile() has them; a later request tries again.
Obtained obtain(const KernelSource& source, const std::string& arch);

// The same for a GPU of this architecture: also code of another one that runs there, where a pack
// has it and no better is in memory.
Obtained obtain_to_run(const KernelSource& source, const std::string& arch);

// Makes the kernels of a pack known.
void add_binaries(std::vector<Binary> binaries);

// Architectures whose binaries run on `arch`, best first: "sm_89" -> sm_89, sm_86, sm_80.
std::vector<std::string> compatible_archs(const std::string& arch);

}  // namespace tilewright::jit
