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

TW_DEVICE bool operator<(const Wide& a, const Wide& b) {
  return (a.high < b.high) | ((a.high == b.high) & (a.low < b.low));
}

// a is not below b.
TW_DEVICE Wide operator-(const Wide& a, const Wide& b) {
  return {a.high - b.high - (a.low < b.low ? 1 : 0), a.low - b.low};
}

// The lower 64 bits of value / 2^shift; shift is in [0, 64].
TW_DEVICE u64 shifted_down(const Wide& value, i32 shift) {
  if (shift == 0) return value.low;
  return shift == 64 ? value.high : value.high << (64 - shift) | value.low >> shift;
}

}  // namespace tw
