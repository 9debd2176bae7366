// SPDX-License-Identifier: Apache-2.0
// A 128-bit hash of content (FNV-1a): it names cache entries and finds damage. It does not protect
// against people who want two contents to collide; the cache folder is the user's own.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace tilewright::jit {

struct Digest {
  std::uint64_t high = 0, low = 0;

  std::string hex() const;  // 32 digits
  friend bool operator==(const Digest&, const Digest&) = default;
  friend bool operator<(const Digest& a, const Digest& b) {
    return a.high != b.high ? a.high < b.high : a.low < b.low;
  }
};

class Hasher {
 public:
  Hasher& bytes(std::string_view data);
  // With its length, so that two texts in a row are not taken for others with the border elsewhere.
  Hasher& text(std::string_view data);
  Digest digest() const;

 private:
  std::uint64_t high_ = 0x6C62272E07BB0142, low_ = 0x62B821756295C58D;
};

inline Digest digest_of(std::string_view data) {
  return Hasher().bytes(data).digest();
}

}  // namespace tilewright::jit
