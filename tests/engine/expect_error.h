// SPDX-License-Identifier: Apache-2.0
// Expects an Error whose message has every one of the given parts.
#pragma once

#include <gtest/gtest.h>
#include <tilewright/error.h>

#include <initializer_list>
#include <string>
#include <string_view>

namespace tilewright::test {

template <typename Call>
void expect_error(const Call& call, std::initializer_list<std::string_view> parts,
                  ErrorCode code = ErrorCode::invalid_argument) {
  try {
    call();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    for (const std::string_view part : parts) {
      EXPECT_NE(std::string_view(error.what()).find(part), std::string_view::npos)
          << "'" << part << "' is missing in: " << error.what();
    }
    return;
  }
  ADD_FAILURE() << "no error was thrown; expected: " << (parts.size() > 0 ? *parts.begin() : "");
}

}  // namespace tilewright::test
