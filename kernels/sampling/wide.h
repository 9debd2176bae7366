// SPDX-License-Identifier: Apache-2.0
// Numbers of 128 bits.
#pragma once

#include "arch/integer.h"

namespace tw {

struct Wide {
  u64 high;
  u64 low;

  TW_DEVICE void add(u64 more_high, u64 more_low) {
    low += more_low;
    high += more_high + (low < more_low ? 1 : 0);
  }
};

TW_DEVICE Wide wide_product(u64 a, u64 b) {
  return {multiply_high(a, b), a * b};
}

// The same where a has at most 42 bits and b at most 60, so that nothing is carried in the middle.
TW_DEVICE Wide product_of_weight(u64 a, u64 b) {
  const u64 a_low = static_cast<u32>(a), a_high = a >> 32;
  const u64 b_low = static_cast<u32>(b), b_high = b >> 32;
  const u64 low = a_low * b_low;
  const u64 middle = a_low * b_high + (low >> 32) + a_high * b_low;
  return {a_high * b_high + (middle >> 32), middle << 32 | static_cast<u32>(low)};
}

TW_DEVICE bool operator<(const Wide& a, const Wide& b) {
  return (a.high < b.high) | ((a.high == b.high) & (a.low < b.low));
}

// Where a is below b it wraps around.
TW_DEVICE Wide operator-(const Wide& a, const Wide& b) {
  return {a.high - b.high - (a.low < b.low ? 1 : 0), a.low - b.low};
}

// The lower 64 bits of value / 2^shift; shift is in [0, 64].
TW_DEVICE u64 shifted_down(const Wide& value, i32 shift) {
  if (shift == 0) return value.low;
  return shift == 64 ? value.high : value.high << (64 - shift) | value.low >> shift;
}

}  // namespace tw
