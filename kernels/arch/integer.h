// SPDX-License-Identifier: Apache-2.0
// Integers: what one instruction or few do and C++ has no operator for.
#pragma once

#include "arch/types.h"

namespace tw {

// The upper half of the 128-bit product.
TW_DEVICE u64 multiply_high(u64 a, u64 b) {
  return __umul64hi(a, b);
}

// What the compiler may rely on.
TW_DEVICE void take_for_granted(bool fact) {
  __builtin_assume(fact);
}

TW_DEVICE u32 swap_middle_bytes(u32 bytes) {
  return __byte_perm(bytes, 0, 0x3120);
}

}  // namespace tw
