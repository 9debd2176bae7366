// SPDX-License-Identifier: Apache-2.0
#include "engine/pretokenizer.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <array>
#include <cstddef>
#include <span>
#include <string>

#include "engine/checks.h"
#include "engine/utf8.h"

namespace tilewright::engine {
namespace {

// Unicode's White_Space inside a character class. PCRE2's own \s differs (it has U+180E), and
// \p{White_Space} needs PCRE2 10.40.
#define WS \
  R"(\x09-\x0D\x20\x{85}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000})"

constexpr const char* kDigit = R"(\p{N})";
constexpr const char* kGpt2 =
    "'s|'t|'re|'ve|'m|'ll|'d"
    R"(| ?\p{L}+| ?\p{N}+| ?[^)" WS R"(\p{L}\p{N}]+|[)" WS "]+(?![^" WS "])|[" WS "]+";

// The expression of Llama 3; `digits` is how many digits make a piece.
#define LLAMA_BPE(digits)                                                            \
  R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N})" digits "| ?[^" WS \
  R"(\p{L}\p{N}]+[\r\n]*|[)" WS R"(]*[\r\n]+|[)" WS "]+(?![^" WS "])|[" WS "]+"

constexpr std::array<const char*, 2> kSmolLmPatterns = {kDigit, kGpt2};
constexpr std::array<const char*, 1> kGpt2Patterns = {kGpt2};
constexpr std::array<const char*, 1> kLlamaPatterns = {LLAMA_BPE("{1,3}")};
constexpr std::array<const char*, 1> kQwen2Patterns = {LLAMA_BPE("")};
#undef LLAMA_BPE
#undef WS

std::span<const char* const> patterns_of(std::string_view name) {
  if (name == "smollm") return kSmolLmPatterns;
  if (name == "gpt-2") return kGpt2Patterns;
  if (name == "llama-bpe") return kLlamaPatterns;
  if (name == "qwen2") return kQwen2Patterns;
  raise(ErrorCode::not_supported,
        "pre-tokenizer {} is not supported: it must be smollm, gpt-2, llama-bpe or qwen2",
        quoted(name));
}

std::string pcre2_message(int code) {
  std::array<PCRE2_UCHAR, 256> text{};
  pcre2_get_error_message(code, text.data(), text.size());
  return reinterpret_cast<const char*>(text.data());
}

using MatchData = std::unique_ptr<pcre2_match_data, decltype(&pcre2_match_data_free)>;
using MatchContext = std::unique_ptr<pcre2_match_context, decltype(&pcre2_match_context_free)>;

// The working memory of one call, so that patterns may be shared by threads.
struct Matcher {
  MatchData data{pcre2_match_data_create(1, nullptr), &pcre2_match_data_free};
  MatchContext context{pcre2_match_context_create(nullptr), &pcre2_match_context_free};

  Matcher() {
    if (data == nullptr || context == nullptr) {
      raise(ErrorCode::out_of_memory, "no memory to match a pre-tokenizer's pattern");
    }
    // The limits exist for patterns with exponential backtracking, which these are not.
    pcre2_set_match_limit(context.get(), 0xFFFFFFFFU);
  }

  // Finds the first match at or after `begin`; false when there is none.
  bool find(const pcre2_code* code, std::string_view text, std::size_t begin, std::size_t& from,
            std::size_t& to) {
    const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
    // The text is known to be well formed: the check would cost the whole text at each match.
    int result = pcre2_match(code, subject, text.size(), begin, PCRE2_NO_UTF_CHECK, data.get(),
                             context.get());
    if (result == PCRE2_ERROR_JIT_STACKLIMIT) {
      result = pcre2_match(code, subject, text.size(), begin, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT,
                           data.get(), context.get());
    }
    if (result == PCRE2_ERROR_NOMATCH) return false;
    if (result < 0) {
      raise(ErrorCode::internal, "matching a pre-tokenizer's pattern failed: {}",
            pcre2_message(result));
    }
    const PCRE2_SIZE* bounds = pcre2_get_ovector_pointer(data.get());
    from = bounds[0];
    to = bounds[1];
    return true;
  }
};

void append_pieces(const pcre2_code* code, std::string_view text, Matcher& matcher,
                   std::vector<std::string_view>& out) {
  std::size_t done = 0;
  std::size_t from = 0;
  std::size_t to = 0;
  while (done < text.size() && matcher.find(code, text, done, from, to)) {
    if (from > done) out.push_back(text.substr(done, from - done));
    out.push_back(text.substr(from, to - from));
    done = to;
  }
  if (done < text.size()) out.push_back(text.substr(done));
}

// The longest beginning of `text` whose characters are all well formed, or all ill formed.
std::string_view uniform_prefix(std::string_view text, bool& valid) {
  valid = first_character(text).status == Utf8Status::valid;
  std::size_t length = 0;
  while (length < text.size()) {
    const Utf8Character character = first_character(text.substr(length));
    if ((character.status == Utf8Status::valid) != valid) break;
    length += static_cast<std::size_t>(character.length);
  }
  return text.substr(0, length);
}

}  // namespace

void PreTokenizer::FreeCode::operator()(pcre2_real_code_8* code) const {
  pcre2_code_free(code);
}

PreTokenizer::PreTokenizer(std::string_view name) {
  for (const char* text : patterns_of(name)) {
    int error = 0;
    PCRE2_SIZE offset = 0;
    Pattern pattern(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(text), PCRE2_ZERO_TERMINATED,
                                  PCRE2_UTF | PCRE2_UCP, &error, &offset, nullptr));
    if (pattern == nullptr) {
      raise(ErrorCode::internal, "PCRE2 refuses the pattern of pre-tokenizer {} at {}: {}", name,
            offset, pcre2_message(error));
    }
    // Not every build and machine can compile to machine code: matching then interprets.
    pcre2_jit_compile(pattern.get(), PCRE2_JIT_COMPLETE);
    patterns_.push_back(std::move(pattern));
  }
}

std::vector<std::string_view> PreTokenizer::split(std::string_view text) const {
  Matcher matcher;
  std::vector<std::string_view> out;
  while (!text.empty()) {
    bool valid = false;
    const std::string_view run = uniform_prefix(text, valid);
    text.remove_prefix(run.size());
    std::vector<std::string_view> pieces = {run};
    for (std::size_t i = 0; valid && i < patterns_.size(); ++i) {
      std::vector<std::string_view> finer;
      for (const std::string_view piece : pieces) {
        append_pieces(patterns_[i].get(), piece, matcher, finer);
      }
      pieces = std::move(finer);
    }
    out.insert(out.end(), pieces.begin(), pieces.end());
  }
  return out;
}

}  // namespace tilewright::engine
