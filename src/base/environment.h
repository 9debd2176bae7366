// SPDX-License-Identifier: Apache-2.0
// Switches in the environment.
#pragma once

#include <cstdlib>
#include <string_view>

namespace tilewright {

// Whether it is set, and not to "0".
inline bool environment_asks(const char* variable) {
  const char* const value = std::getenv(variable);
  return value != nullptr && *value != '\0' && std::string_view(value) != "0";
}

}  // namespace tilewright
