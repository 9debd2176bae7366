// SPDX-License-Identifier: Apache-2.0
// Scalar conversions between f32 and the narrower floating-point formats: round to nearest even,
// NaN stays NaN.
#pragma once

#include <tilewright/tensor_view.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace tilewright {

inline float bf16_to_f32(std::uint16_t bits) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
}

inline std::uint16_t f32_to_bf16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if ((bits & 0x7FFFFFFFU) > 0x7F800000U) return static_cast<std::uint16_t>((bits >> 16) | 0x40U);
  return static_cast<std::uint16_t>((bits + 0x7FFFU + ((bits >> 16) & 1U)) >> 16);
}

// A format of 1 sign bit, `kExponent` and `kMantissa` bits with IEEE's bias. kFinite: no infinity,
// only the all-ones pattern is NaN (e4m3fn), and conversion saturates; else as IEEE, and e5m2
// saturates too when asked.
template <int kExponent, int kMantissa, bool kFinite>
struct SmallFloat {
  static constexpr int kBias = (1 << (kExponent - 1)) - 1;
  static constexpr std::uint32_t kMagnitude = (1U << (kExponent + kMantissa)) - 1;
  static constexpr std::uint32_t kInfinity = ((1U << kExponent) - 1) << kMantissa;

  static float decode(std::uint32_t bits) {
    const std::uint32_t magnitude = bits & kMagnitude;
    const std::uint32_t exponent = magnitude >> kMantissa;
    const std::uint32_t mantissa = magnitude & ((1U << kMantissa) - 1);
    float value = 0;
    if (kFinite ? magnitude == kMagnitude : magnitude > kInfinity) {
      value = std::bit_cast<float>(0x7FC00000U);
    } else if (!kFinite && magnitude == kInfinity) {
      value = INFINITY;
    } else if (exponent == 0) {
      value = std::ldexp(static_cast<float>(mantissa), 1 - kBias - kMantissa);
    } else {
      value = std::bit_cast<float>((exponent + 127 - kBias) << 23 | mantissa << (23 - kMantissa));
    }
    return (bits >> (kExponent + kMantissa)) & 1U ? -value : value;
  }

  static std::uint32_t encode(float value, bool saturate) {
    const std::uint32_t sign = (std::bit_cast<std::uint32_t>(value) >> 31)
                               << (kExponent + kMantissa);
    if (std::isnan(value)) return sign | kMagnitude;
    const float magnitude = std::fabs(value);
    if (magnitude == 0) return sign;
    constexpr std::uint32_t kLargest = kFinite ? kMagnitude - 1 : kInfinity - 1;
    // The step between neighbours: normals by their exponent, subnormals by the smallest one.
    int exponent = 0;
    std::frexp(magnitude, &exponent);
    exponent = std::max(exponent - 1, 1 - kBias);
    const float scaled = std::ldexp(magnitude, kMantissa - exponent);
    const float overflow = std::ldexp(2.0F, kBias + 1);
    std::uint32_t bits = kLargest + 1;
    if (magnitude < overflow) {
      const auto rounded = static_cast<std::uint32_t>(std::nearbyint(scaled));
      const std::uint32_t normal = exponent > 1 - kBias || rounded >= (1U << kMantissa);
      bits = normal ? (static_cast<std::uint32_t>(exponent + kBias - 1) << kMantissa) + rounded
                    : rounded;
    }
    if (bits > kLargest) {
      bits = saturate ? kLargest : (kFinite ? kMagnitude : kInfinity);
    }
    return sign | bits;
  }
};

using Half = SmallFloat<5, 10, false>;
using Float8E4M3 = SmallFloat<4, 3, true>;
using Float8E5M2 = SmallFloat<5, 2, false>;

// One element of any floating-point dtype as f32, and back (fp8 saturates, f16 overflows to
// infinity).
inline float load_element(const void* data, DType dtype, std::int64_t index) {
  switch (dtype) {
    case DType::f32:
      return static_cast<const float*>(data)[index];
    case DType::f16:
      return Half::decode(static_cast<const std::uint16_t*>(data)[index]);
    case DType::bf16:
      return bf16_to_f32(static_cast<const std::uint16_t*>(data)[index]);
    case DType::f8e4m3:
      return Float8E4M3::decode(static_cast<const std::uint8_t*>(data)[index]);
    case DType::f8e5m2:
      return Float8E5M2::decode(static_cast<const std::uint8_t*>(data)[index]);
    default:
      return NAN;
  }
}

inline void store_element(void* data, DType dtype, std::int64_t index, float value) {
  switch (dtype) {
    case DType::f32:
      static_cast<float*>(data)[index] = value;
      break;
    case DType::f16:
      static_cast<std::uint16_t*>(data)[index] =
          static_cast<std::uint16_t>(Half::encode(value, false));
      break;
    case DType::bf16:
      static_cast<std::uint16_t*>(data)[index] = f32_to_bf16(value);
      break;
    case DType::f8e4m3:
      static_cast<std::uint8_t*>(data)[index] =
          static_cast<std::uint8_t>(Float8E4M3::encode(value, true));
      break;
    case DType::f8e5m2:
      static_cast<std::uint8_t*>(data)[index] =
          static_cast<std::uint8_t>(Float8E5M2::encode(value, true));
      break;
    default:
      break;
  }
}

// One element of an integer tensor.
inline std::int64_t load_integer(const void* data, DType dtype, std::int64_t index) {
  switch (dtype) {
    case DType::i64:
      return static_cast<const std::int64_t*>(data)[index];
    case DType::u8:
      return static_cast<const std::uint8_t*>(data)[index];
    case DType::i8:
      return static_cast<const std::int8_t*>(data)[index];
    default:
      return static_cast<const std::int32_t*>(data)[index];
  }
}

inline bool is_floating_point(DType dtype) {
  return dtype == DType::f32 || dtype == DType::f16 || dtype == DType::bf16 ||
         dtype == DType::f8e4m3 || dtype == DType::f8e5m2;
}

}  // namespace tilewright
