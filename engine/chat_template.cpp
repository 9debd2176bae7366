// SPDX-License-Identifier: Apache-2.0
#include "engine/chat_template.h"

#include <string_view>

#include "engine/checks.h"

namespace tilewright::engine {
namespace {

constexpr std::string_view kStart = "<|im_start|>";
constexpr std::string_view kEnd = "<|im_end|>";

// What kind of template this is, for the error.
std::string_view kind_of(std::string_view text) {
  if (text.find("<|start_header_id|>") != text.npos) return "Llama 3";
  if (text.find("[INST]") != text.npos) return "Llama 2 or Mistral";
  if (text.find("<start_of_turn>") != text.npos) return "Gemma";
  return "unknown";
}

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

// Calls visit(role, content) for every message, the default system message included.
template <typename Visit>
void for_each_message(const std::string& default_system, std::span<const ChatMessage> messages,
                      const Visit& visit) {
  require(!messages.empty(), "messages is empty: a chat needs at least one");
  if (!default_system.empty() && messages.front().role != "system") {
    visit("system", default_system);
  }
  for (const ChatMessage& message : messages) {
    require(!message.role.empty(), "role is empty: it must be system, user, assistant or the like");
    visit(message.role, message.content);
  }
}

}  // namespace

ChatTemplate::ChatTemplate(const GgufFile& file, const Tokenizer& tokenizer) {
  const auto start = tokenizer.find_added(kStart);
  const auto end = tokenizer.find_added(kEnd);
  if (file.has("tokenizer.chat_template")) {
    const std::string_view text = file.string("tokenizer.chat_template");
    if (text.find(kStart) == text.npos || text.find(kEnd) == text.npos) {
      raise(ErrorCode::not_supported,
            "{}: the chat template (tokenizer.chat_template) is of kind {}: it must be ChatML",
            file.path(), kind_of(text));
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

std::string ChatTemplate::render(std::span<const ChatMessage> messages) const {
  std::string out;
  const auto append = [&](std::string_view role, std::string_view content) {
    out.append(kStart).append(role).append("\n").append(content).append(kEnd).append("\n");
  };
  for_each_message(default_system_, messages, append);
  return out.append(kStart).append("assistant\n");
}

std::vector<std::int32_t> ChatTemplate::encode(const Tokenizer& tokenizer,
                                               std::span<const ChatMessage> messages) const {
  std::vector<std::int32_t> out;
  const auto append_text = [&](std::string_view text) {
    const auto ids = tokenizer.encode(text, ControlTokens::as_text);
    out.insert(out.end(), ids.begin(), ids.end());
  };
  const auto append = [&](std::string_view role, std::string_view content) {
    out.push_back(start_);
    append_text(std::string(role).append("\n").append(content));
    out.push_back(end_);
    append_text("\n");
  };
  for_each_message(default_system_, messages, append);
  out.push_back(start_);
  append_text("assistant\n");
  return out;
}

}  // namespace tilewright::engine
