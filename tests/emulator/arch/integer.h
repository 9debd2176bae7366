// SPDX-License-Identifier: Apache-2.0
// kernels/arch/integer.h for the emulator.
#pragma once

#include "arch/types.h"

namespace tw {

TW_DEVICE u64 multiply_high(u64 a, u64 b) {
  return static_cast<u64>((__extension__ static_cast<unsigned __int128>(a) * b) >> 64);
}

}  // namespace tw
