// SPDX-License-Identifier: Apache-2.0
// Errors of the engine: tilewright::Error with a formatted message, and safe quoting of names that
// come from files.
#pragma once

#include <fmt/format.h>
#include <tilewright/error.h>

#include <string>
#include <string_view>
#include <utility>

namespace tilewright::engine {

template <typename... Args>
[[noreturn]] void raise(ErrorCode code, fmt::format_string<Args...> format, Args&&... args) {
  throw Error(code, fmt::format(format, std::forward<Args>(args)...));
}

// require(rows >= 0, "rows is {}: it must not be negative", rows)
template <typename... Args>
void require(bool condition, fmt::format_string<Args...> format, Args&&... args) {
  if (!condition) [[unlikely]] {
    raise(ErrorCode::invalid_argument, format, std::forward<Args>(args)...);
  }
}

// 'text' in printable ASCII, cut at 64 bytes: names in a damaged file may be anything.
inline std::string quoted(std::string_view text) {
  constexpr std::size_t kLimit = 64;
  std::string out = "'";
  for (const char c : text.substr(0, kLimit)) {
    if (c >= 0x20 && c < 0x7F) {
      out += c;
    } else {
      out += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
    }
  }
  return out + (text.size() > kLimit ? "'..." : "'");
}

}  // namespace tilewright::engine
