// SPDX-License-Identifier: Apache-2.0
#include "engine/chat_template.h"

#include <string_view>

#include "engine/checks.h"

namespace tilewright::engine {
namespace {

constexpr std::string_view kStart = "<|im_start|>";
constexpr std::string_view kEnd = "<|im_end|>";

// The text between <|im_start|>system and <|im_end|> where a template holds it as a literal, its
// newline as the character or as the two characters of Jinja's escape.
std::string default_system_of(std::string_view text) {
  const std::string opening = std::string(kStart) + "system";
  for (std::size_t at = text.find(opening); at != text.npos; at = text.find(opening, at + 1)) {
    std::string_view rest = text.substr(at + opening.size());
    if (rest.starts_with("\n")) {
      rest.remove_prefix(1);
    } else if (rest.starts_with("\\n")) {
      rest.remove_prefix(2);
    } else {
      continue;
    }
    const std::string_view literal = rest.substr(0, rest.find(kEnd));
    // Quotes and braces mean that the literal ended before: the message is computed.
    if (literal.size() < rest.size() && literal.find_first_of("'\"{}\\") == literal.npos) {
      return std::string(literal);
    }
  }
  return {};
}

}  // namespace

ChatTemplate::ChatTemplate(const GgufFile& file, const Tokenizer& tokenizer) {
  const auto start = tokenizer.find_added(kStart);
  const auto end = tokenizer.find_added(kEnd);
  if (file.has("tokenizer.chat_template")) {
    const std::string_view text = file.string("tokenizer.chat_template");
    if (text.find(kStart) == text.npos || text.find(kEnd) == text.npos) {
      raise(ErrorCode::not_supported,
            "{}: the chat template (tokenizer.chat_template) is {}: it must be ChatML", file.path(),
            quoted(text));
    }
    default_system_ = default_system_of(text);
  }
  if (!start || !end) {
    raise(
        ErrorCode::not_supported,
        "{}: the vocabulary has no tokens <|im_start|> and <|im_end|>: a chat needs a ChatML model",
        file.path());
  }
  start_ = *start;
  end_ = *end;
}

std::vector<std::int32_t> ChatTemplate::encode(const Tokenizer& tokenizer,
                                               std::span<const ChatMessage> messages) const {
  require(!messages.empty(), "messages is empty: a chat needs at least one");
  std::vector<std::int32_t> out;
  const auto append_text = [&](std::string_view text) {
    const auto ids = tokenizer.encode(text, ControlTokens::as_text);
    out.insert(out.end(), ids.begin(), ids.end());
  };
  const auto append = [&](const std::string& role, const std::string& content) {
    require(!role.empty(), "role is empty: it must be system, user, assistant or the like");
    out.push_back(start_);
    append_text(role + "\n" + content);
    out.push_back(end_);
    append_text("\n");
  };
  if (!default_system_.empty() && messages.front().role != "system") {
    append("system", default_system_);
  }
  for (const ChatMessage& message : messages) append(message.role, message.content);
  out.push_back(start_);
  append_text("assistant\n");
  return out;
}

}  // namespace tilewright::engine
