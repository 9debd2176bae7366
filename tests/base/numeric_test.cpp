// SPDX-License-Identifier: Apache-2.0
// Scalar conversions against the definitions of the formats, in double arithmetic.
#include "base/numeric.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

namespace tilewright {
namespace {

// A format as its definition says: every finite value by its pattern.
struct Format {
  int exponent_bits;
  int mantissa_bits;
  bool has_infinity;

  int bits() const { return 1 + exponent_bits + mantissa_bits; }
  double value(std::uint32_t pattern) const {
    const int bias = (1 << (exponent_bits - 1)) - 1;
    const int top = (1 << exponent_bits) - 1;
    const int exponent = static_cast<int>(pattern >> mantissa_bits) & top;
    const int mantissa = static_cast<int>(pattern & ((1U << mantissa_bits) - 1));
    const double sign = (pattern >> (bits() - 1)) & 1U ? -1 : 1;
    if (has_infinity && exponent == top) return mantissa == 0 ? sign * INFINITY : NAN;
    if (!has_infinity && exponent == top && mantissa == (1 << mantissa_bits) - 1) return NAN;
    if (exponent == 0) return sign * std::ldexp(mantissa, 1 - bias - mantissa_bits);
    return sign * std::ldexp((1 << mantissa_bits) + mantissa, exponent - bias - mantissa_bits);
  }
};

const Format kHalf{5, 10, true};
const Format kE4M3{4, 3, false};
const Format kE5M2{5, 2, true};
const Format kBfloat{8, 7, true};

template <typename Decode>
void expect_decodes(const Format& format, const Decode& decode) {
  for (std::uint32_t pattern = 0; pattern < (1U << format.bits()); ++pattern) {
    const double expected = format.value(pattern);
    const float actual = decode(pattern);
    if (std::isnan(expected)) {
      EXPECT_TRUE(std::isnan(actual)) << pattern;
    } else {
      EXPECT_EQ(actual, expected) << pattern;
      EXPECT_EQ(std::signbit(actual), std::signbit(expected)) << pattern;
    }
  }
}

TEST(Numeric, DecodesEveryPattern) {
  expect_decodes(kHalf, [](std::uint32_t bits) { return Half::decode(bits); });
  expect_decodes(kE4M3, [](std::uint32_t bits) { return Float8E4M3::decode(bits); });
  expect_decodes(kE5M2, [](std::uint32_t bits) { return Float8E5M2::decode(bits); });
  expect_decodes(kBfloat,
                 [](std::uint32_t bits) { return bf16_to_f32(static_cast<std::uint16_t>(bits)); });
}

// The values where rounding decides: each finite magnitude, the middle to the next, and the floats
// on both sides of these.
template <typename Encode>
void expect_rounds_to_nearest_even(const Format& format, const Encode& encode) {
  const std::uint32_t half = 1U << (format.bits() - 1);
  for (std::uint32_t pattern = 0; pattern + 1 < half; ++pattern) {
    const double low = format.value(pattern);
    const double high = format.value(pattern + 1);
    if (!std::isfinite(low) || !std::isfinite(high)) continue;
    const float middle = static_cast<float>((low + high) / 2);
    ASSERT_EQ(middle, (low + high) / 2);
    const std::uint32_t even = pattern % 2 == 0 ? pattern : pattern + 1;
    EXPECT_EQ(encode(static_cast<float>(low)), pattern);
    EXPECT_EQ(encode(std::nextafter(middle, 0.0F)), pattern);
    EXPECT_EQ(encode(middle), even) << pattern;
    EXPECT_EQ(encode(std::nextafter(middle, INFINITY)), pattern + 1);
    EXPECT_EQ(encode(-middle), even | half) << pattern;
  }
}

TEST(Numeric, EncodesToNearestEven) {
  expect_rounds_to_nearest_even(kHalf, [](float x) { return Half::encode(x, false); });
  expect_rounds_to_nearest_even(kE4M3, [](float x) { return Float8E4M3::encode(x, true); });
  expect_rounds_to_nearest_even(kE5M2, [](float x) { return Float8E5M2::encode(x, true); });
  expect_rounds_to_nearest_even(kBfloat, [](float x) { return std::uint32_t{f32_to_bf16(x)}; });
}

TEST(Numeric, OverflowsAndSaturates) {
  EXPECT_EQ(Half::encode(65519.996F, false), 0x7BFFU);
  EXPECT_EQ(Half::encode(65520.0F, false), 0x7C00U);
  EXPECT_EQ(Half::encode(1e30F, false), 0x7C00U);
  EXPECT_EQ(Half::encode(-INFINITY, false), 0xFC00U);
  EXPECT_EQ(Float8E4M3::encode(464.0F, true), 0x7EU);
  EXPECT_EQ(Float8E4M3::encode(480.0F, true), 0x7EU);
  EXPECT_EQ(Float8E4M3::encode(-1e30F, true), 0xFEU);
  EXPECT_EQ(Float8E4M3::encode(INFINITY, true), 0x7EU);
  EXPECT_EQ(Float8E5M2::encode(61440.0F, true), 0x7BU);
  EXPECT_EQ(Float8E5M2::encode(INFINITY, true), 0x7BU);
  EXPECT_EQ(Float8E5M2::encode(INFINITY, false), 0x7CU);
  EXPECT_EQ(f32_to_bf16(3.4e38F), 0x7F80U);
  EXPECT_EQ(f32_to_bf16(-INFINITY), 0xFF80U);
}

TEST(Numeric, NanStaysNan) {
  const float nan = std::bit_cast<float>(0x7F800001U);  // the payload's top bits are 0
  EXPECT_TRUE(std::isnan(bf16_to_f32(f32_to_bf16(nan))));
  EXPECT_TRUE(std::isnan(Half::decode(Half::encode(nan, false))));
  EXPECT_TRUE(std::isnan(Float8E4M3::decode(Float8E4M3::encode(nan, true))));
  EXPECT_TRUE(std::isnan(Float8E5M2::decode(Float8E5M2::encode(-nan, true))));
}

TEST(Numeric, TinyValuesRoundToSignedZero) {
  for (const float tiny : {1e-45F, 1e-38F, 1e-12F}) {
    EXPECT_EQ(Half::encode(-tiny, false), 0x8000U);
    EXPECT_EQ(Float8E4M3::encode(-tiny, true), 0x80U);
    EXPECT_EQ(Float8E5M2::encode(tiny, true), 0U);
  }
}

TEST(Numeric, LoadAndStoreElements) {
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16, DType::f8e4m3, DType::f8e5m2}) {
    EXPECT_TRUE(is_floating_point(dtype));
    std::vector<std::uint8_t> bytes(4 * 4);
    for (int i = 0; i < 4; ++i) store_element(bytes.data(), dtype, i, 0.5F * static_cast<float>(i));
    for (int i = 0; i < 4; ++i) EXPECT_EQ(load_element(bytes.data(), dtype, i), 0.5 * i);
  }
  EXPECT_FALSE(is_floating_point(DType::i8));
  const std::int64_t wide[] = {1, std::int64_t{1} << 40};
  const std::int32_t narrow[] = {1, -7};
  EXPECT_EQ(load_integer(wide, DType::i64, 1), std::int64_t{1} << 40);
  EXPECT_EQ(load_integer(narrow, DType::i32, 1), -7);
}

}  // namespace
}  // namespace tilewright
