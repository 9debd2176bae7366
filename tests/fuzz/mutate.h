// SPDX-License-Identifier: Apache-2.0
// Damage to bytes: single ones, numbers, spans, lines and words of a format.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "fuzz/draw.h"

namespace tilewright::fuzz {

inline void mutate_once(std::string& bytes, Draw& draw, std::span<const std::string_view> words) {
  const auto at = [&] { return static_cast<std::size_t>(draw.below(bytes.size() + 1)); };
  const std::size_t begin = at();
  const std::size_t rest = bytes.size() - begin;
  switch (draw.below(words.empty() ? 7 : 9)) {
    case 0:
      if (rest > 0) bytes[begin] = static_cast<char>(draw.below(256));
      break;
    case 1:
      bytes.erase(begin, draw.below(draw.chance(0.2) ? rest + 1 : 9));
      break;
    case 2:
      bytes.insert(begin, 1, static_cast<char>(draw.below(256)));
      break;
    case 3: {  // a span once more, somewhere else
      const std::string copy = bytes.substr(begin, draw.below(64));
      bytes.insert(at(), copy);
      break;
    }
    case 4: {  // a number of 4 or 8 bytes
      const std::int64_t number = draw.extreme();
      const std::size_t size = draw.chance(0.5) ? 8 : 4;
      if (rest >= size) {
        bytes.replace(begin, size, reinterpret_cast<const char*>(&number), size);
      }
      break;
    }
    case 5:
      if (rest > 0) bytes[begin] = static_cast<char>(bytes[begin] + (draw.chance(0.5) ? 1 : -1));
      break;
    case 6: {  // a number of another value, in texts
      const std::size_t digit = bytes.find_first_of("0123456789", begin);
      if (digit != std::string::npos) bytes[digit] = static_cast<char>('0' + draw.below(10));
      break;
    }
    case 7:
      bytes.insert(begin, words[draw.below(words.size())]);
      break;
    default:
      bytes.replace(begin, draw.below(9), words[draw.below(words.size())]);
      break;
  }
}

// Nothing at all in one case of four.
inline bool mutate(std::string& bytes, Draw& draw, std::span<const std::string_view> words = {}) {
  if (!draw.chance(0.75)) return false;
  const std::int64_t times = draw.chance(0.5) ? draw.range(2, 4) : 1;
  for (std::int64_t i = 0; i < times; ++i) mutate_once(bytes, draw, words);
  return true;
}

// Bytes for a reader of notes.
inline std::string shown(std::string_view bytes) {
  std::string text;
  for (const char c : bytes) {
    constexpr std::string_view kHex = "0123456789abcdef";
    const auto byte = static_cast<unsigned char>(c);
    if (byte >= 32 && byte < 127) {
      text += c;
    } else {
      text += {'\\', 'x', kHex[byte >> 4], kHex[byte & 15]};
    }
  }
  return text;
}

}  // namespace tilewright::fuzz
