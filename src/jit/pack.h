// SPDX-License-Identifier: Apache-2.0
// Kernels in one file that ships with an application.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "jit/binary.h"

namespace tilewright::jit {

// Error (invalid_argument) when the file cannot be written; the old one stays then.
void write_pack(const std::string& path,
                const std::vector<std::shared_ptr<const Binary>>& binaries);

// Error (invalid_argument) when it cannot be read, is no pack, or any kernel of it is damaged.
std::vector<Binary> read_pack(const std::string& path);

}  // namespace tilewright::jit
