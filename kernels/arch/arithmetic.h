// SPDX-License-Identifier: Apache-2.0
// Arithmetic that gives the same bits on every backend: one IEEE operation each, rounded to nearest
// even, which the compiler neither contracts nor replaces. And what C calls math functions, to an
// ulp or two.
#pragma once

#include "arch/integer.h"

namespace tw {

TW_DEVICE float add_exact(float a, float b) {
  return __fadd_rn(a, b);
}
TW_DEVICE float subtract_exact(float a, float b) {
  return __fsub_rn(a, b);
}
TW_DEVICE float multiply_exact(float a, float b) {
  return __fmul_rn(a, b);
}
TW_DEVICE float divide_exact(float a, float b) {
  return __fdiv_rn(a, b);
}
TW_DEVICE float sqrt_exact(float a) {
  return __fsqrt_rn(a);
}
// a * b + c, rounded once.
TW_DEVICE float multiply_add_exact(float a, float b, float c) {
  return __fmaf_rn(a, b, c);
}
// To the nearest whole number, ties to even.
TW_DEVICE float round_even(float a) {
  return rintf(a);
}

// e^x and ln(x).
TW_DEVICE float exp_of(float x) {
  return expf(x);
}
TW_DEVICE float log_of(float x) {
  return logf(x);
}

}  // namespace tw
