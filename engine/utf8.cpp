// SPDX-License-Identifier: Apache-2.0
#include "engine/utf8.h"

#include <algorithm>

namespace tilewright::engine {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

struct Lead {
  int length = 0;  // 0: no lead byte
  unsigned char second_min = 0x80;
  unsigned char second_max = 0xBF;
};

// Unicode 15, table 3-7: the second byte excludes overlong forms, surrogates and above U+10FFFF.
Lead lead_of(unsigned char byte) {
  if (byte < 0x80) return {1};
  if (byte < 0xC2 || byte > 0xF4) return {};
  if (byte < 0xE0) return {2};
  if (byte == 0xE0) return {3, 0xA0, 0xBF};
  if (byte == 0xED) return {3, 0x80, 0x9F};
  if (byte < 0xF0) return {3};
  if (byte == 0xF0) return {4, 0x90, 0xBF};
  if (byte == 0xF4) return {4, 0x80, 0x8F};
  return {4};
}

}  // namespace

Utf8Character first_character(std::string_view text) {
  const auto byte = [&](int i) { return static_cast<unsigned char>(text[i]); };
  const Lead lead = lead_of(byte(0));
  if (lead.length == 0) return {Utf8Status::invalid, 1, 0};
  if (lead.length == 1) return {Utf8Status::valid, 1, byte(0)};
  char32_t code_point = byte(0) & (0x7FU >> lead.length);
  for (int i = 1; i < lead.length; ++i) {
    if (i == static_cast<int>(text.size())) return {Utf8Status::truncated, i, 0};
    const unsigned char min = i == 1 ? lead.second_min : 0x80;
    const unsigned char max = i == 1 ? lead.second_max : 0xBF;
    if (byte(i) < min || byte(i) > max) return {Utf8Status::invalid, i, 0};
    code_point = code_point << 6 | (byte(i) & 0x3FU);
  }
  return {Utf8Status::valid, lead.length, code_point};
}

std::string Utf8Stream::push(std::string_view bytes) {
  held_ += bytes;
  std::string out;
  std::string_view rest = held_;
  while (!rest.empty()) {
    const Utf8Character character = first_character(rest);
    if (character.status == Utf8Status::truncated) break;
    const auto length = static_cast<std::size_t>(character.length);
    out += character.status == Utf8Status::valid ? rest.substr(0, length) : kReplacement;
    rest.remove_prefix(length);
  }
  held_ = std::string(rest);
  return out;
}

std::string Utf8Stream::finish() {
  // Held bytes are one unfinished character, and so one maximal subpart.
  std::string out(held_.empty() ? std::string_view() : kReplacement);
  held_.clear();
  return out;
}

}  // namespace tilewright::engine
