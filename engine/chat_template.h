// SPDX-License-Identifier: Apache-2.0
// The text in which a chat model wants its messages: ChatML, with the default system message that
// the GGUF file's template names.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "engine/gguf.h"
#include "engine/tokenizer.h"

namespace tilewright::engine {

struct ChatMessage {
  std::string role;  // "system", "user", "assistant", ...
  std::string content;
};

class ChatTemplate {
 public:
  // Looks at `tokenizer.chat_template`; a file without one gets plain ChatML when its vocabulary
  // has the tokens. Error (not_supported, naming the kind) for other templates.
  ChatTemplate(const GgufFile& file, const Tokenizer& tokenizer);

  // Ends where the assistant's answer begins. Texts of control tokens inside of roles and contents
  // stay text, so that no user ends a message by writing <|im_end|>. Error when there are no
  // messages or a role is empty.
  std::vector<std::int32_t> encode(const Tokenizer& tokenizer,
                                   std::span<const ChatMessage> messages) const;

 private:
  std::string default_system_;  // put first when the first message is no system message; or empty
  std::int32_t start_ = 0;      // <|im_start|>
  std::int32_t end_ = 0;        // <|im_end|>
};

}  // namespace tilewright::engine
