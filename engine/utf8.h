// SPDX-License-Identifier: Apache-2.0
// UTF-8: reading characters of text that may be ill-formed, and making a stream of bytes valid.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace tilewright::engine {

enum class Utf8Status : std::uint8_t {
  valid,
  invalid,    // no continuation makes these bytes a character
  truncated,  // the text ends inside what may become a character
};

struct Utf8Character {
  Utf8Status status = Utf8Status::invalid;
  int length = 1;  // bytes; of an ill-formed one, its maximal subpart (Unicode 15, 3.9, U+FFFD)
  char32_t code_point = 0;
};

// The first character of `text`, which must not be empty.
Utf8Character first_character(std::string_view text);

// Turns pieces of a byte stream into valid UTF-8: a character cut by the end of a piece is held
// back until it is complete, and each maximal ill-formed part becomes U+FFFD.
class Utf8Stream {
 public:
  std::string push(std::string_view bytes);
  std::string finish();  // what was held back becomes U+FFFD; the stream is as new

 private:
  std::string held_;
};

}  // namespace tilewright::engine
