// SPDX-License-Identifier: Apache-2.0
#include "engine/tokenizer.h"

#include <algorithm>
#include <limits>

#include "engine/checks.h"

namespace tilewright::engine {
namespace {

// GPT-2's alphabet writes bytes as characters: printable Latin-1 as itself, the others, in order,
// from U+0100 on. The table gives the byte of a character, -1 where there is none.
std::array<int, 0x144> make_byte_of_character() {
  std::array<int, 0x144> table{};
  table.fill(-1);
  char32_t next = 0x100;
  for (int byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte != 0xAD);
    table[printable ? static_cast<char32_t>(byte) : next++] = byte;
  }
  return table;
}

// The bytes that a vocabulary entry in GPT-2's alphabet stands for; nothing when it has characters
// of no meaning there.
std::optional<std::string> bytes_of(std::string_view text) {
  static const auto byte_of_character = make_byte_of_character();
  std::string out;
  while (!text.empty()) {
    const Utf8Character character = first_character(text);
    if (character.status != Utf8Status::valid || character.code_point >= byte_of_character.size() ||
        byte_of_character[character.code_point] < 0) {
      return std::nullopt;
    }
    out += static_cast<char>(byte_of_character[character.code_point]);
    text.remove_prefix(static_cast<std::size_t>(character.length));
  }
  return out;
}

// Control tokens that end an answer whatever the metadata calls them.
constexpr std::array<std::string_view, 7> kEndTexts = {
    "<|im_end|>", "<|endoftext|>", "<|end_of_text|>", "<|eot_id|>", "<|eom_id|>",
    "<|end|>",    "</s>"};

std::string_view checked_pretokenizer(const GgufFile& file) {
  const std::string_view model = file.string("tokenizer.ggml.model");
  if (model != "gpt2") {
    raise(ErrorCode::not_supported,
          "{}: tokenizer.ggml.model is {}: it must be 'gpt2' "
          "(byte-level BPE)",
          file.path(), quoted(model));
  }
  return file.string("tokenizer.ggml.pre");
}

}  // namespace

Tokenizer::Tokenizer(const GgufFile& file)
    : pretokenizer_(checked_pretokenizer(file)), merger_({}) {
  read_tokens(file);
  index_tokens(file);
  read_merges(file);
  read_special(file);
}

void Tokenizer::read_tokens(const GgufFile& file) {
  const auto texts = file.strings("tokenizer.ggml.tokens");
  require(!texts.empty() && texts.size() <= std::numeric_limits<std::int32_t>::max(),
          "{}: tokenizer.ggml.tokens has {} entries: it must have 1 to 2^31 - 1", file.path(),
          texts.size());
  // ggml's numbers: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused; 6 (a byte) belongs to
  // vocabularies of another kind.
  std::vector<std::int64_t> types(texts.size(), 1);
  if (file.has("tokenizer.ggml.token_type")) {
    types = file.integers("tokenizer.ggml.token_type", 1, 5);
  }
  require(types.size() == texts.size(),
          "{}: tokenizer.ggml.token_type has {} entries: it must have one for each of {} tokens",
          file.path(), types.size(), texts.size());
  constexpr std::array kKinds = {Kind::normal, Kind::control, Kind::control, Kind::user_defined,
                                 Kind::unused};
  for (std::size_t i = 0; i < texts.size(); ++i) {
    const Kind kind = kKinds[static_cast<std::size_t>(types[i] - 1)];
    tokens_.push_back({std::string(texts[i]), kind, false});
  }
}

void Tokenizer::index_tokens(const GgufFile& file) {
  std::array<std::int32_t, 256> byte_tokens{};
  byte_tokens.fill(-1);
  for (std::int32_t id = 0; id < vocabulary_size(); ++id) {
    Token& token = tokens_[id];
    if (token.bytes.empty() || token.kind == Kind::unused) continue;
    if (token.kind != Kind::normal) {
      added_[static_cast<unsigned char>(token.bytes[0])].push_back(id);
      continue;
    }
    auto bytes = bytes_of(token.bytes);
    if (!bytes) continue;  // never the result of encoding; decodes to its text
    token.bytes = std::move(*bytes);
    const auto [entry, added] = normal_.emplace(token.bytes, id);
    require(added, "{}: tokenizer.ggml.tokens has {} twice, as {} and {}", file.path(),
            quoted(token.bytes), entry->second, id);
    if (token.bytes.size() == 1) byte_tokens[static_cast<unsigned char>(token.bytes[0])] = id;
  }
  for (auto& ids : added_) {
    std::ranges::stable_sort(ids, std::greater<>(),
                             [&](std::int32_t id) { return tokens_[id].bytes.size(); });
  }
  merger_ = BytePairMerger(byte_tokens);
}

std::int32_t Tokenizer::merge_part(const GgufFile& file, std::string_view merge,
                                   std::string_view bytes) const {
  if (const auto found = normal_.find(std::string(bytes)); found != normal_.end()) {
    return found->second;
  }
  // A few vocabularies mark the result of a merge as user-defined.
  const auto id = find_added(bytes);
  require(id.has_value(), "{}: tokenizer.ggml.merges has {}: {} must be a token", file.path(),
          quoted(merge), quoted(bytes));
  return *id;
}

void Tokenizer::read_merges(const GgufFile& file) {
  for (const std::string_view merge : file.strings("tokenizer.ggml.merges")) {
    const std::size_t space = merge.find(' ');
    const auto left = bytes_of(merge.substr(0, space));
    const auto right = bytes_of(space == merge.npos ? merge : merge.substr(space + 1));
    require(space != merge.npos && left && right && !left->empty() && !right->empty(),
            "{}: tokenizer.ggml.merges has {}: it must be two tokens and a space between them",
            file.path(), quoted(merge));
    require(merger_.add(merge_part(file, merge, *left), merge_part(file, merge, *right),
                        merge_part(file, merge, *left + *right)),
            "{}: tokenizer.ggml.merges has {} twice", file.path(), quoted(merge));
  }
}

void Tokenizer::read_special(const GgufFile& file) {
  const auto id_of = [&](std::string_view key) -> std::optional<std::int32_t> {
    if (!file.has(key)) return std::nullopt;
    return static_cast<std::int32_t>(file.integer(key, 0, vocabulary_size() - 1));
  };
  const bool llama = file.string("tokenizer.ggml.pre") == "llama-bpe";
  whole_pieces_first_ = llama;
  bos_ = id_of("tokenizer.ggml.bos_token_id");
  adds_bos_ = file.has("tokenizer.ggml.add_bos_token")
                  ? file.boolean("tokenizer.ggml.add_bos_token")
                  : llama;
  require(!adds_bos_ || bos_, "{}: tokenizer.ggml.bos_token_id is missing: prompts begin with it",
          file.path());
  for (const auto id : {id_of("tokenizer.ggml.eos_token_id"), id_of("tokenizer.ggml.eot_token_id"),
                        id_of("tokenizer.ggml.eom_token_id")}) {
    if (id) tokens_[*id].ends_generation = true;
  }
  for (const std::string_view text : kEndTexts) {
    const auto id = find_added(text);
    if (id && is_control(*id)) tokens_[*id].ends_generation = true;
  }
}

const Tokenizer::Token& Tokenizer::at(std::int32_t id) const {
  require(id >= 0 && id < vocabulary_size(), "token id is {}: it must be in [0, {})", id,
          vocabulary_size());
  return tokens_[id];
}

std::optional<std::int32_t> Tokenizer::match_added(std::string_view text,
                                                   ControlTokens control) const {
  for (const std::int32_t id : added_[static_cast<unsigned char>(text[0])]) {
    const bool wanted = control == ControlTokens::parse || !is_control(id);
    if (wanted && text.starts_with(tokens_[id].bytes)) return id;
  }
  return std::nullopt;
}

std::optional<std::int32_t> Tokenizer::find_added(std::string_view text) const {
  if (text.empty()) return std::nullopt;
  const auto id = match_added(text, ControlTokens::parse);
  return id && tokens_[*id].bytes.size() == text.size() ? id : std::nullopt;
}

void Tokenizer::encode_plain(std::string_view text, std::vector<std::int32_t>& out) const {
  for (const std::string_view piece : pretokenizer_.split(text)) {
    if (whole_pieces_first_) {
      if (const auto found = normal_.find(std::string(piece)); found != normal_.end()) {
        out.push_back(found->second);
        continue;
      }
    }
    merger_.apply(piece, out);
  }
}

std::vector<std::int32_t> Tokenizer::encode(std::string_view text, ControlTokens control) const {
  std::vector<std::int32_t> out;
  std::size_t plain = 0;  // where text not yet encoded begins
  for (std::size_t i = 0; i < text.size();) {
    const auto id = match_added(text.substr(i), control);
    if (!id) {
      ++i;
      continue;
    }
    encode_plain(text.substr(plain, i - plain), out);
    out.push_back(*id);
    i += tokens_[*id].bytes.size();
    plain = i;
  }
  encode_plain(text.substr(plain), out);
  return out;
}

std::string Tokenizer::decode(std::span<const std::int32_t> ids) const {
  std::string out;
  for (const std::int32_t id : ids) out += bytes(id);
  return out;
}

std::string StreamDecoder::push(std::int32_t id) {
  if (tokenizer_->is_control(id)) return {};
  return stream_.push(tokenizer_->bytes(id));
}

}  // namespace tilewright::engine
