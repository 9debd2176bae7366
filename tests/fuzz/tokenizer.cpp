// SPDX-License-Identifier: Apache-2.0
// Texts and bytes that are none, through tokenizers of random vocabularies and back.
#include "engine/tokenizer.h"

#include <algorithm>
#include <map>
#include <memory>
#include <set>

#include "engine/append_utf8.h"
#include "engine/gguf_writer.h"
#include "engine/tiny_vocabulary.h"
#include "fuzz/mutate.h"
#include "fuzz/targets.h"

namespace tilewright::fuzz {
namespace {

using engine::ControlTokens;
using engine::Tokenizer;

constexpr std::array<const char*, 4> kSplits = {"gpt-2", "smollm", "llama-bpe", "qwen2"};
constexpr std::array<const char*, 10> kParts = {"<|im_start|>", "<|im_end|>", "<tool>",  "hello",
                                                " the",         "\r\n\n",     "1234567", "'ll",
                                                "\u00E9e",      "   "};

// Merges of tokens that are there into ones that are not.
test::TinyVocabulary random_vocabulary(test::Random& random) {
  std::vector<std::string> tokens;
  for (const char c : std::string_view("abcdehlot  '\n123\xE2\x82\xAC\xC3\xA9\xF0\x9F")) {
    tokens.emplace_back(1, c);
  }
  std::set<std::string> known(tokens.begin(), tokens.end());
  std::vector<std::pair<std::string, std::string>> merges;
  for (std::int64_t left = random.range(0, 60); left > 0; --left) {
    const auto pick = [&] { return tokens[random.below(tokens.size())]; };
    const std::pair<std::string, std::string> merge = {pick(), pick()};
    if (!known.insert(merge.first + merge.second).second) continue;
    tokens.push_back(merge.first + merge.second);
    merges.push_back(merge);
  }
  return test::TinyVocabulary(merges);
}

// One of a few, made when first asked for.
const Tokenizer& draw_tokenizer(Draw& draw) {
  static std::map<std::uint64_t, std::unique_ptr<Tokenizer>> made;
  const std::uint64_t number = draw.below(32);
  std::unique_ptr<Tokenizer>& tokenizer = made[number];
  if (tokenizer == nullptr) {
    test::Random random(number);
    test::TinyVocabulary vocabulary = random_vocabulary(random);
    vocabulary.pre = kSplits[number % kSplits.size()];
    test::GgufWriter writer;
    vocabulary.write(writer);
    writer.set("tokenizer.ggml.add_bos_token", false);
    const std::string bytes = writer.bytes();
    tokenizer = std::make_unique<Tokenizer>(
        engine::GgufFile("vocabulary", std::as_bytes(std::span(bytes))));
  }
  return *tokenizer;
}

char32_t draw_character(Draw& draw) {
  switch (draw.below(5)) {
    case 0:
      return static_cast<char32_t>(draw.range(0, 127));
    case 1:
      return static_cast<char32_t>(draw.range(0x80, 0x7FF));
    case 2:
      return static_cast<char32_t>(draw.range(0x800, 0xD7FF));
    case 3:
      return static_cast<char32_t>(draw.range(0xE000, 0xFFFF));
    default:
      return static_cast<char32_t>(draw.range(0x10000, 0x10FFFF));
  }
}

std::string draw_text(Draw& draw, bool well_formed) {
  std::string text;
  for (std::int64_t left = draw.range(0, 24); left > 0; --left) {
    if (draw.chance(0.3)) {
      text += kParts[draw.below(kParts.size())];
    } else if (well_formed || draw.chance(0.4)) {
      test::append_utf8(text, draw_character(draw));
    } else {
      text += static_cast<char>(draw.below(256));
    }
  }
  return text;
}

}  // namespace

bool fuzz_tokenizer(Draw& draw) {
  const Tokenizer& tokenizer = draw_tokenizer(draw);
  const bool well_formed = draw.chance(0.5);
  const std::string text = draw_text(draw, well_formed);
  draw.note([&] { return shown(text); });
  // The vocabulary has no token for this byte.
  std::string kept = text;
  std::erase(kept, '\x04');
  for (const ControlTokens control : {ControlTokens::parse, ControlTokens::as_text}) {
    const std::vector<std::int32_t> ids = tokenizer.encode(text, control);
    check(tokenizer.decode(ids) == kept, "decoded: " + shown(tokenizer.decode(ids)));
    engine::StreamDecoder stream(tokenizer);
    std::string streamed;
    bool has_control = false;
    for (const std::int32_t id : ids) {
      has_control = has_control || tokenizer.is_control(id);
      streamed += stream.push(id);
      check(!tokenizer.is_control(id) || control == ControlTokens::parse,
            "a control token from plain text");
    }
    streamed += stream.finish();
    // A character may be cut by the byte that is left out.
    if (well_formed && !has_control) check(streamed == kept, "streamed: " + shown(streamed));
    engine::Utf8Stream whole;
    check(whole.push(streamed) + whole.finish() == streamed, "the stream is not UTF-8");
  }
  return true;
}

}  // namespace tilewright::fuzz
