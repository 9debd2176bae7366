// SPDX-License-Identifier: Apache-2.0
// The fp8 conversions of device code that has no instructions for them, against the CPU's.
#include "arch/fp8.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "base/numeric.h"
#include "support/random.h"

namespace tilewright {
namespace {

template <typename T, typename Format>
void check_all_codes() {
  for (std::uint32_t code = 0; code < 256; ++code) {
    const float expected = Format::decode(code);
    const float got = tw::to_float(T{static_cast<tw::u8>(code)});
    if (std::isnan(expected)) {
      EXPECT_TRUE(std::isnan(got)) << code;
    } else {
      EXPECT_EQ(std::bit_cast<std::uint32_t>(got), std::bit_cast<std::uint32_t>(expected)) << code;
    }
  }
}

template <typename T, typename Format>
void check_rounding() {
  std::vector<float> values = {0.0F, INFINITY, 1e30F, 1e-30F, 448, 464, 480, 57344, 61440, 65536};
  // All numbers, what lies half way between two, and the neighbours of that.
  for (std::uint32_t code = 0; code < 127; ++code) {
    const float low = Format::decode(code);
    const float high = Format::decode(code + 1);
    if (!std::isfinite(low) || !std::isfinite(high)) continue;
    const float middle = (low + high) / 2;
    for (const float value :
         {low, high, middle, std::nextafter(middle, 0.0F), std::nextafter(middle, INFINITY)}) {
      values.push_back(value);
    }
  }
  test::Random random(1);
  for (int i = 0; i < 20000; ++i) {
    const auto bits = static_cast<std::uint32_t>(random.bits());
    const auto value = std::bit_cast<float>(bits & 0x7FFFFFFFU);
    if (!std::isnan(value)) values.push_back(value);
    values.push_back(static_cast<float>(std::fabs(random.normal() * 100)));
  }
  for (const float value : values) {
    for (const float signed_value : {value, -value}) {
      ASSERT_EQ(tw::from_float<T>(signed_value).bits, Format::encode(signed_value, true))
          << signed_value;
    }
  }
  EXPECT_TRUE(std::isnan(tw::to_float(tw::from_float<T>(NAN))));
}

TEST(DeviceFp8, DecodesEveryCode) {
  check_all_codes<tw::f8e4m3, Float8E4M3>();
  check_all_codes<tw::f8e5m2, Float8E5M2>();
}

TEST(DeviceFp8, RoundsAndSaturatesAsTheCpu) {
  check_rounding<tw::f8e4m3, Float8E4M3>();
  check_rounding<tw::f8e5m2, Float8E5M2>();
}

}  // namespace
}  // namespace tilewright
