// SPDX-License-Identifier: Apache-2.0
// Integers: what one instruction or few do and C++ has no operator for.
#pragma once

#include "arch/types.h"

namespace tw {

// The upper half of the 128-bit product.
TW_DEVICE u64 multiply_high(u64 a, u64 b) {
  return __umul64hi(a, b);
}

}  // namespace tw
