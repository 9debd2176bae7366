// SPDX-License-Identifier: Apache-2.0
// kernels/arch/integer.h for the emulator.
#pragma once

#include "arch/types.h"
#include "runtime/machine.h"

namespace tw {

TW_DEVICE u64 multiply_high(u64 a, u64 b) {
  return static_cast<u64>((__extension__ static_cast<unsigned __int128>(a) * b) >> 64);
}

TW_DEVICE void take_for_granted(bool fact) {
  if (!fact) emulator::fail("what was taken for granted is not so");
}

TW_DEVICE u32 swap_middle_bytes(u32 bytes) {
  return (bytes & 0xFF0000FFU) | (bytes & 0xFF00U) << 8 | (bytes >> 8 & 0xFF00U);
}

}  // namespace tw
