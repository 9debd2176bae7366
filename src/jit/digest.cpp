// SPDX-License-Identifier: Apache-2.0
#include "jit/digest.h"

#include <fmt/format.h>

namespace tilewright::jit {
namespace {

__extension__ using Wide = unsigned __int128;

// The FNV prime of 128 bits: 2^88 + 2^8 + 0x3b.
constexpr Wide kPrime = (Wide{1} << 88) + 0x13B;

}  // namespace

std::string Digest::hex() const {
  return fmt::format("{:016x}{:016x}", high, low);
}

Hasher& Hasher::bytes(std::string_view data) {
  Wide state = Wide{high_} << 64 | low_;
  for (const char c : data) {
    state ^= static_cast<unsigned char>(c);
    state *= kPrime;
  }
  high_ = static_cast<std::uint64_t>(state >> 64);
  low_ = static_cast<std::uint64_t>(state);
  return *this;
}

Hasher& Hasher::text(std::string_view data) {
  return bytes(fmt::format("{}:", data.size())).bytes(data);
}

Digest Hasher::digest() const {
  return {high_, low_};
}

}  // namespace tilewright::jit
