// SPDX-License-Identifier: Apache-2.0
// Every header, function and type of kernels/arch has a twin in tests/emulator/arch: what is added
// to one and forgotten in the other shows here, and not when a kernel uses it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <regex>
#include <set>
#include <string>

namespace {

namespace fs = std::filesystem;

std::set<std::string> names_in(const fs::path& file) {
  std::ifstream stream(file);
  std::string text{std::istreambuf_iterator<char>(stream), {}};
  // The emulator's own helpers have no twin.
  text = std::regex_replace(
      text, std::regex(R"(namespace emulator \{[^]*?\}  // namespace emulator)"), "");
  std::set<std::string> names;
  const std::regex declared(
      R"((?:TW_DEVICE [\w:]+\*? |struct (?:alignas\(\w+\) )?|using |constexpr \w+ )(\w+))");
  for (std::sregex_iterator at(text.begin(), text.end(), declared), end; at != end; ++at) {
    names.insert((*at)[1]);
  }
  names.erase("emulator");
  return names;
}

TEST(EmulatedNames, EveryHeaderHasItsTwin) {
  const fs::path root = fs::path(TILEWRIGHT_TEST_DATA) / "../..";
  std::size_t headers = 0;
  for (const auto& entry : fs::directory_iterator(root / "kernels/arch")) {
    const fs::path twin = root / "tests/emulator/arch" / entry.path().filename();
    ASSERT_TRUE(fs::exists(twin)) << twin;
    const std::set<std::string> names = names_in(entry.path());
    EXPECT_GT(names.size(), 3U) << entry.path();
    EXPECT_EQ(names_in(twin), names) << twin;
    ++headers;
  }
  EXPECT_GE(headers, 5U);
}

}  // namespace
