// SPDX-License-Identifier: Apache-2.0
// Expects an Error of a kind, with words in its message.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <tilewright/error.h>

#include <string>
#include <vector>

namespace tilewright::test {

template <typename Call>
void expect_error_of(ErrorCode code, const std::vector<std::string>& words, const Call& call) {
  try {
    call();
    ADD_FAILURE() << "no Error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    for (const std::string& word : words) EXPECT_THAT(error.what(), ::testing::HasSubstr(word));
  }
}

}  // namespace tilewright::test
