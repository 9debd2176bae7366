// SPDX-License-Identifier: Apache-2.0
// Splits text into the pieces within which byte-pair merges happen, by the regular expressions a
// model was trained with (`tokenizer.ggml.pre` of a GGUF file).
#pragma once

#include <memory>
#include <string_view>
#include <vector>

struct pcre2_real_code_8;

namespace tilewright::engine {

class PreTokenizer {
 public:
  // "smollm", "gpt-2", "llama-bpe" or "qwen2"; Error (not_supported) for others.
  explicit PreTokenizer(std::string_view name);

  // Pieces in order; together they are `text`. Regular expressions see the maximal well-formed
  // parts of it, each as a text of its own; ill-formed bytes between them form pieces of their own.
  std::vector<std::string_view> split(std::string_view text) const;

 private:
  struct FreeCode {
    void operator()(pcre2_real_code_8* code) const;
  };
  using Pattern = std::unique_ptr<pcre2_real_code_8, FreeCode>;

  // Each splits the pieces of the one before: matches and what lies between them are pieces.
  std::vector<Pattern> patterns_;
};

}  // namespace tilewright::engine
