// SPDX-License-Identifier: Apache-2.0
// A made vocabulary for tests without a model: bytes in GPT-2's alphabet, some merges, ChatML's
// control tokens.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/append_utf8.h"
#include "engine/gguf_writer.h"

namespace tilewright::test {

// The character that GPT-2's alphabet writes for a byte: printable Latin-1 is itself, the others
// follow from U+0100 on.
inline std::string gpt2_character(int byte) {
  const auto printable = [](int b) {
    return (b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xFF && b != 0xAD);
  };
  int code_point = byte;
  if (!printable(byte)) {
    code_point = 0x100;
    for (int b = 0; b < byte; ++b) code_point += printable(b) ? 0 : 1;
  }
  std::string out;
  append_utf8(out, static_cast<char32_t>(code_point));
  return out;
}

inline std::string gpt2_text(std::string_view bytes) {
  std::string out;
  for (const char c : bytes) out += gpt2_character(static_cast<unsigned char>(c));
  return out;
}

// Tokens: 0 <|endoftext|>, 1 <|im_start|>, 2 <|im_end|> (eos), 3 the user-defined "<tool>", 4 + b
// byte b, then one for each merge. Byte 0x04 has no token: its entry is unused.
struct TinyVocabulary {
  std::string pre = "gpt-2";
  std::vector<std::pair<std::string, std::string>> merges;
  std::vector<std::string> tokens;
  std::vector<std::int32_t> types;

  static constexpr std::int32_t kFirstByte = 4;
  static constexpr std::int32_t kFirstMerged = kFirstByte + 256;

  explicit TinyVocabulary(std::vector<std::pair<std::string, std::string>> merge_list)
      : merges(std::move(merge_list)) {
    tokens = {"<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool>"};
    types = {3, 3, 3, 4};
    for (int byte = 0; byte < 256; ++byte) {
      tokens.push_back(byte == 4 ? "[unused]" : gpt2_character(byte));
      types.push_back(byte == 4 ? 5 : 1);
    }
    for (const auto& [left, right] : merges) {
      tokens.push_back(gpt2_text(left + right));
      types.push_back(1);
    }
  }

  void write(GgufWriter& writer) const {
    std::vector<std::string> merge_texts;
    for (const auto& [left, right] : merges) {
      merge_texts.push_back(gpt2_text(left) + " " + gpt2_text(right));
    }
    writer.set("tokenizer.ggml.model", std::string("gpt2"))
        .set("tokenizer.ggml.pre", pre)
        .set("tokenizer.ggml.tokens", tokens)
        .set("tokenizer.ggml.token_type", types)
        .set("tokenizer.ggml.merges", merge_texts)
        .set("tokenizer.ggml.eos_token_id", std::uint32_t{2});
  }
};

}  // namespace tilewright::test
