// SPDX-License-Identifier: Apache-2.0
// The device code of this library, as text.
#pragma once

#include <span>
#include <string_view>

namespace tilewright::jit {

struct EmbeddedFile {
  std::string_view name;  // as #include has it: "arch/types.h", "plan/records.h", "cstdint"
  std::string_view text;  // ends with a null character behind it
};

// Sorted by nothing in particular; names are unique.
std::span<const EmbeddedFile> embedded_files();

}  // namespace tilewright::jit
