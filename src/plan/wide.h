// SPDX-License-Identifier: Apache-2.0
// Integers of 128 bits for the sums of masks that need them, where the compiler has none: NVRTC
// asks for an option. Slow, and seldom used.
#pragma once

#include "plan/half_plane.h"

namespace tilewright::plan {

struct Wide {
  std::int64_t high = 0;
  std::uint64_t low = 0;

  TILEWRIGHT_HD Wide(long long value = 0)  // NOLINT(google-explicit-constructor): a number
      : high(value < 0 ? -1 : 0), low(static_cast<std::uint64_t>(value)) {}
  TILEWRIGHT_HD Wide(std::int64_t h, std::uint64_t l) : high(h), low(l) {}
  // Of numbers that fit.
  TILEWRIGHT_HD explicit operator std::int64_t() const { return static_cast<std::int64_t>(low); }

  TILEWRIGHT_HD friend Wide operator+(Wide a, Wide b) {
    const std::uint64_t sum = a.low + b.low;
    const std::uint64_t carry = sum < a.low ? 1 : 0;
    return {static_cast<std::int64_t>(static_cast<std::uint64_t>(a.high) +
                                      static_cast<std::uint64_t>(b.high) + carry),
            sum};
  }
  TILEWRIGHT_HD friend Wide operator-(Wide a) { return Wide(~a.high, ~a.low) + 1; }
  TILEWRIGHT_HD friend Wide operator-(Wide a, Wide b) { return a + -b; }
  TILEWRIGHT_HD Wide& operator+=(Wide other) { return *this = *this + other; }
  TILEWRIGHT_HD friend Wide operator*(Wide a, Wide b) {
    constexpr std::uint64_t kHalf = 0xFFFFFFFF;
    const std::uint64_t a0 = a.low & kHalf;
    const std::uint64_t a1 = a.low >> 32;
    const std::uint64_t b0 = b.low & kHalf;
    const std::uint64_t b1 = b.low >> 32;
    const std::uint64_t middle = a1 * b0 + ((a0 * b0) >> 32);
    const std::uint64_t other = a0 * b1 + (middle & kHalf);
    const std::uint64_t carried = a1 * b1 + (middle >> 32) + (other >> 32);
    const std::uint64_t upper = carried + static_cast<std::uint64_t>(a.high) * b.low +
                                a.low * static_cast<std::uint64_t>(b.high);
    return {static_cast<std::int64_t>(upper), a.low * b.low};
  }

  TILEWRIGHT_HD friend bool operator<(Wide a, Wide b) {
    return a.high != b.high ? a.high < b.high : a.low < b.low;
  }
  TILEWRIGHT_HD friend bool operator>(Wide a, Wide b) { return b < a; }
  TILEWRIGHT_HD friend bool operator<=(Wide a, Wide b) { return !(b < a); }
  TILEWRIGHT_HD friend bool operator>=(Wide a, Wide b) { return !(a < b); }
  TILEWRIGHT_HD friend bool operator==(Wide a, Wide b) {
    return a.high == b.high && a.low == b.low;
  }
  TILEWRIGHT_HD friend bool operator!=(Wide a, Wide b) { return !(a == b); }
};

// b is positive and has 62 bits at most: bit by bit.
template <>
TILEWRIGHT_HD_CALL inline Wide floor_by<Wide>(Wide a, Wide b) {
  const bool negative = a < 0;
  const Wide rest_of = negative ? -a : a;
  Wide quotient = 0;
  std::uint64_t rest = 0;
  for (int bit = 127; bit >= 0; --bit) {
    const std::uint64_t word = bit >= 64 ? static_cast<std::uint64_t>(rest_of.high) : rest_of.low;
    rest = rest * 2 + (word >> (bit % 64) & 1);
    quotient = quotient + quotient;
    if (rest >= b.low) {
      rest -= b.low;
      quotient += 1;
    }
  }
  if (!negative) return quotient;
  return rest == 0 ? -quotient : -quotient - 1;
}

}  // namespace tilewright::plan
