// SPDX-License-Identifier: Apache-2.0
// UTF-8: every code point, ill-formed text, and streams cut anywhere.
#include "engine/utf8.h"

#include <gtest/gtest.h>

#include "engine/append_utf8.h"

namespace tilewright::test {
namespace {

using engine::first_character;
using engine::Utf8Status;
using engine::Utf8Stream;

std::string made_valid(std::string_view bytes) {
  Utf8Stream stream;
  std::string out = stream.push(bytes);
  return out + stream.finish();
}

TEST(Utf8, RoundTripOfEveryCodePoint) {
  for (char32_t c = 0; c <= 0x10FFFF; ++c) {
    std::string text;
    test::append_utf8(text, c);
    const auto character = first_character(text);
    if (c >= 0xD800 && c <= 0xDFFF) {
      ASSERT_EQ(character.status, Utf8Status::invalid);
      continue;
    }
    ASSERT_EQ(character.status, Utf8Status::valid);
    ASSERT_EQ(character.length, static_cast<int>(text.size()));
    ASSERT_EQ(character.code_point, c);
    for (std::size_t cut = 1; cut < text.size(); ++cut) {
      ASSERT_EQ(first_character(std::string_view(text).substr(0, cut)).status,
                Utf8Status::truncated);
    }
  }
}

// The examples of Unicode 15, tables 3-8 to 3-11.
TEST(Utf8, MaximalSubpartsBecomeOneReplacementEach) {
  const std::string r = "\xEF\xBF\xBD";
  EXPECT_EQ(made_valid("\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41"),
            r + r + r + r + r + r + r + r + "A");
  EXPECT_EQ(made_valid("\xED\xA0\x80\xED\xBF\xBF\xED\xAF\x41"),
            r + r + r + r + r + r + r + r + "A");
  EXPECT_EQ(made_valid("\xF4\x91\x92\x93\xFF\x41\x80\xBF\x42"),
            r + r + r + r + r + "A" + r + r + "B");
  EXPECT_EQ(made_valid("\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41"), r + r + r + r + "A");
}

TEST(Utf8, StreamsHoldBackWhatIsNotComplete) {
  const std::string text = "a\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80z";
  for (std::size_t cut = 0; cut <= text.size(); ++cut) {
    Utf8Stream stream;
    const std::string first = stream.push(std::string_view(text).substr(0, cut));
    EXPECT_EQ(made_valid(first), first);
    EXPECT_EQ(first.find("\xEF\xBF\xBD"), std::string::npos);
    EXPECT_EQ(first + stream.push(std::string_view(text).substr(cut)), text);
    EXPECT_EQ(stream.finish(), "");
  }
  Utf8Stream stream;
  EXPECT_EQ(stream.push("\xF0\x9F\x98"), "");
  EXPECT_EQ(stream.finish(), "\xEF\xBF\xBD");
  EXPECT_EQ(stream.push("ok"), "ok");
}

}  // namespace
}  // namespace tilewright::test
