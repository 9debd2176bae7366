// SPDX-License-Identifier: Apache-2.0
// What applications set for the whole process: places to look at, and who is told of troubles.
#pragma once

#include <tilewright/jit.h>

#include <optional>
#include <string>
#include <vector>

namespace tilewright::jit {

struct Settings {
  std::string nvrtc_path;  // of set_nvrtc_path, else of the environment
  std::vector<std::string> python_folders;
  std::optional<std::string> cache_folder;
  unsigned nvrtc_changes = 0;  // grows when a place to look for NVRTC changes
};
Settings settings();  // a copy, thread-safe

// Tells the warning handler.
void warn(const std::string& message);
// The same, but only the first time in this process that this `kind` of trouble comes.
void warn_once(const std::string& kind, const std::string& message);

}  // namespace tilewright::jit
