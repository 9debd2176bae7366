// SPDX-License-Identifier: Apache-2.0
// Byte-level BPE tokenizer from the metadata of a GGUF file, and streaming detokenisation.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "engine/byte_pair_merger.h"
#include "engine/gguf.h"
#include "engine/pretokenizer.h"
#include "engine/utf8.h"

namespace tilewright::engine {

// Whether the texts of control tokens (<|im_start|>) in the input become those tokens, or are
// ordinary text: what users write should be text.
enum class ControlTokens : std::uint8_t { parse, as_text };

// Immutable and thread-safe. Text is not normalised. Input that is not UTF-8 is tokenised bytewise
// where it is ill-formed. Bytes that have no token (a vocabulary may lack some that do not occur in
// text) are left out, as Hugging Face's tokenizers do: the rest is unaffected.
class Tokenizer {
 public:
  // Error when a key is missing or malformed, or the model or pre-tokenizer is not supported.
  explicit Tokenizer(const GgufFile& file);

  std::int32_t vocabulary_size() const { return static_cast<std::int32_t>(tokens_.size()); }
  std::optional<std::int32_t> bos() const { return bos_; }
  // Whether a raw prompt should begin with bos(). `encode` never adds it.
  bool adds_bos() const { return adds_bos_; }

  // User-defined tokens are always recognised in text, the longest of those that match first;
  // control tokens as asked.
  std::vector<std::int32_t> encode(std::string_view text, ControlTokens control) const;

  // The bytes of the tokens joined: not always UTF-8. Error for an id outside the vocabulary.
  std::string decode(std::span<const std::int32_t> ids) const;
  std::string_view bytes(std::int32_t id) const { return at(id).bytes; }

  bool is_control(std::int32_t id) const { return at(id).kind == Kind::control; }
  // True of eos, end of turn and the like: generation stops here.
  bool ends_generation(std::int32_t id) const { return at(id).ends_generation; }
  // The control or user-defined token of this text.
  std::optional<std::int32_t> find_added(std::string_view text) const;

 private:
  enum class Kind : std::uint8_t { normal, control, user_defined, unused };
  struct Token {
    std::string bytes;
    Kind kind = Kind::normal;
    bool ends_generation = false;
  };

  const Token& at(std::int32_t id) const;
  std::int32_t merge_part(const GgufFile& file, std::string_view merge,
                          std::string_view bytes) const;
  void read_tokens(const GgufFile& file);
  void index_tokens(const GgufFile& file);
  void read_merges(const GgufFile& file);
  void read_special(const GgufFile& file);
  // The added token at the beginning of `text`, or nothing.
  std::optional<std::int32_t> match_added(std::string_view text, ControlTokens control) const;
  void encode_plain(std::string_view text, std::vector<std::int32_t>& out) const;

  std::vector<Token> tokens_;
  std::unordered_map<std::string, std::int32_t> normal_;  // normal tokens by their bytes
  // Control and user-defined tokens by their first byte, the longest first.
  std::array<std::vector<std::int32_t>, 256> added_;
  PreTokenizer pretokenizer_;
  BytePairMerger merger_;
  bool whole_pieces_first_ = false;  // a piece that is a token needs no merges (Llama 3)
  bool adds_bos_ = false;
  std::optional<std::int32_t> bos_;
};

// The text of one growing answer: valid UTF-8, without control tokens.
class StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer& tokenizer) : tokenizer_(&tokenizer) {}

  // The text that became certain; a character is held back until its last byte is there.
  std::string push(std::int32_t id);
  std::string finish() { return stream_.finish(); }

 private:
  const Tokenizer* tokenizer_;
  Utf8Stream stream_;
};

}  // namespace tilewright::engine
