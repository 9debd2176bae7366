// SPDX-License-Identifier: Apache-2.0
// Pre-tokenizers: pieces of small texts, as Hugging Face's tokenizers cut them.
#include "engine/pretokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "engine/append_utf8.h"
#include "engine/expect_error.h"
#include "support/random.h"

namespace tilewright::test {
namespace {

using engine::PreTokenizer;
using testing::ElementsAre;
using testing::IsEmpty;

TEST(PreTokenizer, SmolLm) {
  const PreTokenizer pre("smollm");
  EXPECT_THAT(pre.split(""), IsEmpty());
  EXPECT_THAT(pre.split("Hello world"), ElementsAre("Hello", " world"));
  EXPECT_THAT(pre.split("I'll pay 250 now"),
              ElementsAre("I", "'ll", " pay", " ", "2", "5", "0", " now"));
  EXPECT_THAT(pre.split("I'LL"), ElementsAre("I", "'", "LL"));
  EXPECT_THAT(pre.split("a  \n\n b"), ElementsAre("a", "  \n\n", " b"));
  EXPECT_THAT(pre.split("a  1"), ElementsAre("a", "  ", "1"));
  EXPECT_THAT(pre.split(" !? (x)"), ElementsAre(" !?", " (", "x", ")"));
  EXPECT_THAT(pre.split("x\xC2\xBD"), ElementsAre("x", "\xC2\xBD"));  // a fraction is a number
}

TEST(PreTokenizer, Gpt2) {
  const PreTokenizer pre("gpt-2");
  EXPECT_THAT(pre.split("in 1999, they've"), ElementsAre("in", " 1999", ",", " they", "'ve"));
  EXPECT_THAT(pre.split("a   b"), ElementsAre("a", "  ", " b"));
  EXPECT_THAT(pre.split("end  "), ElementsAre("end", "  "));
}

TEST(PreTokenizer, LlamaBpe) {
  const PreTokenizer pre("llama-bpe");
  EXPECT_THAT(pre.split("Year 12345, THEY'VE"),
              ElementsAre("Year", " ", "123", "45", ",", " THEY", "'VE"));
  EXPECT_THAT(pre.split("x;\n\n y"), ElementsAre("x", ";\n\n", " y"));
  EXPECT_THAT(pre.split("a \n  b"), ElementsAre("a", " \n", " ", " b"));
  EXPECT_THAT(pre.split("(abc"), ElementsAre("(abc"));
}

TEST(PreTokenizer, Qwen2) {
  const PreTokenizer pre("qwen2");
  EXPECT_THAT(pre.split("Year 123"), ElementsAre("Year", " ", "1", "2", "3"));
  EXPECT_THAT(pre.split("it's"), ElementsAre("it", "'s"));
}

// White space is Unicode's: U+0085 belongs to it, U+180E does not.
TEST(PreTokenizer, WhiteSpaceIsUnicodes) {
  const PreTokenizer pre("gpt-2");
  EXPECT_THAT(pre.split("!\xC2\x85!"), ElementsAre("!", "\xC2\x85", "!"));
  EXPECT_THAT(pre.split("!\xE1\xA0\x8E!"), ElementsAre("!\xE1\xA0\x8E!"));
  EXPECT_THAT(pre.split("a\xE3\x80\x80"), ElementsAre("a", "\xE3\x80\x80"));
}

TEST(PreTokenizer, IllFormedBytesAreApart) {
  const PreTokenizer pre("gpt-2");
  EXPECT_THAT(pre.split("ab\xFF\xC0 cd"), ElementsAre("ab", "\xFF\xC0", " cd"));
  EXPECT_THAT(pre.split("\xE2\x82"), ElementsAre("\xE2\x82"));
  EXPECT_THAT(pre.split("a  \x80 b"), ElementsAre("a", "  ", "\x80", " b"));
}

TEST(PreTokenizer, NothingIsLost) {
  Random random(5);
  for (const char* name : {"smollm", "gpt-2", "llama-bpe", "qwen2"}) {
    const PreTokenizer pre(name);
    for (int round = 0; round < 500; ++round) {
      std::string text;
      for (std::int64_t i = random.range(0, 30); i > 0; --i) {
        if (random.chance(0.2)) {
          text += static_cast<char>(random.bits());
        } else {
          test::append_utf8(text, random.pick<char32_t>({' ', ' ', '\n', 'a', 'Z', '\'', 's', '7',
                                                         '.', 0xE9, 0x4E00, 0x1F600, 0x2003}));
        }
      }
      std::string joined;
      for (const auto piece : pre.split(text)) {
        EXPECT_FALSE(piece.empty());
        joined += piece;
      }
      ASSERT_EQ(joined, text);
    }
  }
}

// Neither PCRE2's limits nor its stack may be met, and the time must not grow with the square.
TEST(PreTokenizer, LongRuns) {
  constexpr std::size_t kLength = 4 << 20;
  for (const char* name : {"smollm", "gpt-2", "llama-bpe", "qwen2"}) {
    const PreTokenizer pre(name);
    for (const char* unit : {"a", " ", "!", "\n", "\xC3\xA9", "\xFF", " \n", "a "}) {
      std::string text;
      while (text.size() < kLength) text += unit;
      EXPECT_GE(pre.split(text).size(), 1U) << name << " '" << unit << "'";
      EXPECT_GE(pre.split(text + "x").size(), 1U) << name << " '" << unit << "'";
    }
  }
}

TEST(PreTokenizer, OthersAreNamed) {
  expect_error([] { PreTokenizer{"deepseek-llm"}; }, {"'deepseek-llm'", "smollm", "qwen2"},
               ErrorCode::not_supported);
}

}  // namespace
}  // namespace tilewright::test
