// SPDX-License-Identifier: Apache-2.0
// Where the real model of the engine's tests is, when this machine has it.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <optional>
#include <string>

namespace tilewright::test {

// TILEWRIGHT_TEST_MODEL, else the cache folder that the demo fills.
inline std::optional<std::string> test_model() {
  std::filesystem::path path;
  if (const char* given = std::getenv("TILEWRIGHT_TEST_MODEL")) {
    path = given;
  } else {
    const char* cache = std::getenv("XDG_CACHE_HOME");
    const char* home = std::getenv("HOME");
    path = cache != nullptr ? cache : std::filesystem::path(home == nullptr ? "" : home) / ".cache";
    path = path / "tilewright" / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf";
  }
  if (!std::filesystem::exists(path)) return std::nullopt;
  return path.string();
}

}  // namespace tilewright::test
