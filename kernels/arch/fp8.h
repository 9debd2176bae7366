// SPDX-License-Identifier: Apache-2.0
// fp8: e4m3 (no infinity; all ones is NaN) and e5m2. From f32 they round to nearest even and
// saturate, infinities too; NaN stays NaN, whose sign may be lost. Ada and later have instructions;
// before, integer arithmetic gives the same results.
#pragma once

#include "arch/numeric.h"
#include "arch/types.h"

namespace tw {

// To a format of `exponent_bits` and `mantissa_bits` with IEEE's bias, magnitudes limited to
// `largest`.
template <i32 exponent_bits, i32 mantissa_bits>
TW_DEVICE u8 encode_small_float(float value, float largest) {
  constexpr i32 kBias = (1 << (exponent_bits - 1)) - 1;
  constexpr u32 kMagnitude = (1U << (exponent_bits + mantissa_bits)) - 1;
  const u32 bits = bits_of(value);
  const u32 sign = bits >> 31 << (exponent_bits + mantissa_bits);
  if ((bits & 0x7FFFFFFFU) > 0x7F800000U) return static_cast<u8>(sign | kMagnitude);
  const float limited = min_of(float_of(bits & 0x7FFFFFFFU), largest);
  constexpr u32 kSmallestNormal = static_cast<u32>(128 - kBias) << 23;
  if (limited < float_of(kSmallestNormal)) {
    // Adding a number whose last bit is worth one step of the subnormals lets the adder round.
    constexpr u32 kUnit = static_cast<u32>(127 + 23 + 1 - kBias - mantissa_bits) << 23;
    return static_cast<u8>(sign | (bits_of(limited + float_of(kUnit)) - kUnit));
  }
  // Rounds the mantissa in place; a carry moves into the exponent, as it should.
  const u32 magnitude = bits_of(limited);
  const u32 odd = magnitude >> (23 - mantissa_bits) & 1U;
  const u32 rounded = magnitude + odd + ((1U << (22 - mantissa_bits)) - 1U);
  return static_cast<u8>(sign | ((rounded >> (23 - mantissa_bits)) -
                                 (static_cast<u32>(127 - kBias) << mantissa_bits)));
}

template <>
TW_DEVICE f8e4m3 from_float<f8e4m3>(float value) {
#if __CUDA_ARCH__ >= 890
  u16 pair;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(0.0F), "f"(value));
  return f8e4m3{static_cast<u8>(pair)};
#else
  return f8e4m3{encode_small_float<4, 3>(value, 448.0F)};
#endif
}
template <>
TW_DEVICE f8e5m2 from_float<f8e5m2>(float value) {
#if __CUDA_ARCH__ >= 890
  u16 pair;
  asm("cvt.rn.satfinite.e5m2x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(0.0F), "f"(value));
  return f8e5m2{static_cast<u8>(pair)};
#else
  return f8e5m2{encode_small_float<5, 2>(value, 57344.0F)};
#endif
}

TW_DEVICE float to_float(f8e5m2 value) {
  return to_float(f16{static_cast<u16>(value.bits << 8)});  // the upper half of an f16
}
TW_DEVICE float to_float(f8e4m3 value) {
  // As an f16, exponent and mantissa in place mean 2^-8 times the value, subnormals too.
  const u32 magnitude = value.bits & 0x7FU;
  if (magnitude == 0x7FU) return float_of(0x7FC00000U);
  const u32 sign = value.bits & 0x80U;
  return to_float(f16{static_cast<u16>(sign << 8 | magnitude << 7)}) * 256.0F;
}

// Two neighbouring elements, the first one in the low byte, as a pair of bf16 or f16: exact.
template <typename To, typename From>
TW_DEVICE u32 widen_pair(u16 two) {
#if __CUDA_ARCH__ >= 890
  u32 halves;
#define TW_WIDEN(type) asm("cvt.rn.f16x2." type " %0, %1;" : "=r"(halves) : "h"(two))
  if constexpr (kIsSame<From, f8e4m3>) {
    TW_WIDEN("e4m3x2");
  } else {
    TW_WIDEN("e5m2x2");
  }
#undef TW_WIDEN
  if constexpr (kIsSame<To, f16>) return halves;
  return pack<To>(low_of<f16>(halves), high_of<f16>(halves));
#else
  return pack<To>(to_float(From{static_cast<u8>(two)}), to_float(From{static_cast<u8>(two >> 8)}));
#endif
}

// The same of four.
struct WidePairs {
  u32 first, second;
};
template <typename To, typename From>
TW_DEVICE WidePairs widen_pairs(u32 four) {
#if __CUDA_ARCH__ >= 890
  // In one piece: the upper two are operands as they are, else they are moved first.
  if constexpr (kIsSame<To, f16>) {
    WidePairs pairs;
#define TW_WIDEN(type)                                                     \
  asm("{\n.reg .b16 low, high;\nmov.b32 {low, high}, %2;\n"                \
      "cvt.rn.f16x2." type " %0, low;\ncvt.rn.f16x2." type " %1, high;\n}" \
      : "=r"(pairs.first), "=r"(pairs.second)                              \
      : "r"(four))
    if constexpr (kIsSame<From, f8e4m3>) {
      TW_WIDEN("e4m3x2");
    } else {
      TW_WIDEN("e5m2x2");
    }
#undef TW_WIDEN
    return pairs;
  }
#endif
  return {widen_pair<To, From>(static_cast<u16>(four)),
          widen_pair<To, From>(static_cast<u16>(four >> 16))};
}

}  // namespace tw
