// SPDX-License-Identifier: Apache-2.0
// kernels/arch/arithmetic.h for the emulator. Tests are compiled without contraction.
#pragma once

#include <cmath>

#include "arch/integer.h"

namespace tw {

TW_DEVICE float add_exact(float a, float b) {
  return a + b;
}
TW_DEVICE float subtract_exact(float a, float b) {
  return a - b;
}
TW_DEVICE float multiply_exact(float a, float b) {
  return a * b;
}
TW_DEVICE float divide_exact(float a, float b) {
  return a / b;
}
TW_DEVICE float sqrt_exact(float a) {
  return std::sqrt(a);
}
TW_DEVICE float multiply_add_exact(float a, float b, float c) {
  return std::fma(a, b, c);
}
TW_DEVICE float round_even(float a) {
  return std::nearbyint(a);
}

TW_DEVICE float exp_of(float x) {
  return std::exp(x);
}
TW_DEVICE float log_of(float x) {
  return std::log(x);
}

}  // namespace tw
