// SPDX-License-Identifier: Apache-2.0
// Number formats of the emulator against those of the library, and the corners of the fast
// functions.
#include "arch/numeric.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>

#include "base/numeric.h"

namespace tw {
namespace {

TEST(EmulatedNumeric, EveryF16) {
  for (u32 bits = 0; bits < 0x10000; ++bits) {
    const float value = to_float(f16{static_cast<u16>(bits)});
    const float expected = tilewright::Half::decode(bits);
    if (std::isnan(expected)) {
      EXPECT_TRUE(std::isnan(value)) << bits;
      EXPECT_EQ(from_float<f16>(value).bits, 0x7FFF);
    } else {
      EXPECT_EQ(bits_of(value), bits_of(expected)) << bits;
      EXPECT_EQ(from_float<f16>(value).bits, bits);
    }
  }
}

// Both neighbours of every number and of every point half way between two, and these themselves.
TEST(EmulatedNumeric, RoundsToNearestEven) {
  for (u32 high = 0; high < 0x10000; ++high) {
    for (const u32 low : {0U, 1U, 0x0FFFU, 0x1000U, 0x1001U, 0x7FFFU, 0x8000U, 0x8001U, 0xFFFFU}) {
      const float value = float_of(high << 16 | low);
      if (std::isnan(value)) {
        EXPECT_EQ(from_float<bf16>(value).bits, 0x7FFF);
        continue;
      }
      ASSERT_EQ(from_float<bf16>(value).bits, tilewright::f32_to_bf16(value)) << value;
      ASSERT_EQ(from_float<f16>(value).bits, tilewright::Half::encode(value, false)) << value;
    }
  }
}

TEST(EmulatedNumeric, Pairs) {
  EXPECT_EQ(pack<bf16>(1.0F, -2.0F), 0xC0003F80U);
  EXPECT_EQ(low_of<bf16>(0xC0003F80U), 1.0F);
  EXPECT_EQ(high_of<bf16>(0xC0003F80U), -2.0F);
  EXPECT_EQ(pack<f16>(1.0F, -2.0F), 0xC0003C00U);
  EXPECT_EQ(low_of<f16>(0xC0003C00U), 1.0F);
  EXPECT_EQ(high_of<f16>(0xC0003C00U), -2.0F);
  EXPECT_EQ(add_pairs<bf16>(pack<bf16>(1.0F, -2.0F), pack<bf16>(0x1p-9F, 0.5F)),
            pack<bf16>(1.0F, -1.5F));
  EXPECT_EQ(add_pairs<f16>(pack<f16>(65504.0F, 1.0F), pack<f16>(65504.0F, 2.0F)),
            pack<f16>(kInfinity, 3.0F));
}

TEST(EmulatedNumeric, FastFunctions) {
  EXPECT_EQ(exp2_fast(-kInfinity), 0.0F);
  EXPECT_EQ(exp2_fast(-126.0F), 0x1p-126F);
  EXPECT_EQ(exp2_fast(-126.5F), 0.0F);
  EXPECT_EQ(exp2_fast(3.0F), 8.0F);
  EXPECT_EQ(exp2_fast(128.0F), kInfinity);
  EXPECT_TRUE(std::isnan(exp2_fast(float_of(0x7FFFFFFFU))));
  EXPECT_EQ(log2_fast(0.0F), -kInfinity);
  EXPECT_EQ(log2_fast(8.0F), 3.0F);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(max_of(nan, 2.0F), 2.0F);
  EXPECT_EQ(max_of(2.0F, nan), 2.0F);
  EXPECT_TRUE(std::isnan(max_or_nan(nan, 2.0F)));
  EXPECT_TRUE(std::isnan(max_or_nan(2.0F, nan)));
  EXPECT_EQ(max_or_nan(-kInfinity, 2.0F), 2.0F);
  EXPECT_EQ(min_of(nan, 2.0F), 2.0F);
  EXPECT_EQ(min_of(2.0F, nan), 2.0F);
  EXPECT_EQ(max_of(-kInfinity, 2.0F), 2.0F);
}

}  // namespace
}  // namespace tw
