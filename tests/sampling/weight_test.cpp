// SPDX-License-Identifier: Apache-2.0
// Fixed-point weights: against float64, and the vector form against the scalar one.
#include "sampling/weight.h"

#include <gtest/gtest.h>

#include "base/simd_targets.h"
#include "sampling/sampling_support.h"

namespace tilewright {
namespace {

using namespace test;  // NOLINT(google-build-using-namespace)

TEST(TokenWeight, IsExp2InFixedPoint) {
  const WeightScale scale{0.0F, 1.0F};
  EXPECT_EQ(token_weight(0.0F, scale), kWeightOne);
  EXPECT_EQ(token_weight(-1.0F, scale), kWeightOne / 2);
  EXPECT_EQ(token_weight(-40.0F, scale), 1U);
  EXPECT_EQ(token_weight(-41.0F, scale), 0U);
  EXPECT_EQ(token_weight(-kInf, scale), 0U);
  EXPECT_EQ(token_weight(-3e38F, scale), 0U);
  for (int i = 0; i < 1000000; ++i) {
    const float y = static_cast<float>(-i) * 4.2e-5F;
    const double expected = std::exp2(static_cast<double>(y)) * static_cast<double>(kWeightOne);
    ASSERT_NEAR(static_cast<double>(token_weight(y, scale)), expected, 1.2e-7 * expected + 1) << y;
  }
}

TEST(TokenWeight, ExtremeTemperatures) {
  for (const float temperature : {1e-45F, 1e-38F, 1e-3F, 1.0F, 1e38F, 3.4e38F, kInf}) {
    const WeightScale scale{5.0F, WeightScale::of_temperature(temperature)};
    EXPECT_TRUE(std::isnormal(scale.scale)) << temperature;
    EXPECT_EQ(token_weight(5.0F, scale), kWeightOne) << temperature;
    EXPECT_EQ(token_weight(-kInf, scale), 0U) << temperature;
    const double expected = std::exp(-1.0 / static_cast<double>(temperature));
    EXPECT_NEAR(static_cast<double>(token_weight(4.0F, scale)) / kWeightOne, expected, 1e-6)
        << temperature;
  }
}

TEST(TokenWeight, VectorFormIsTheSameOnEveryTarget) {
  Random random(1);
  for_each_simd_target([&] {
    for (const std::int64_t size : {1, 15, 256, 257, 5000}) {
      for (const auto kind :
           {RowKind::normal, RowKind::wide, RowKind::masked, RowKind::geometric}) {
        const Row row = make_row(random, kind, size);
        WeightScale scale{-kInf, WeightScale::of_temperature(0.7F)};
        for (const float x : row) scale.largest = std::fmax(scale.largest, x);
        if (scale.largest == -kInf) continue;
        std::vector<std::uint64_t> masses(static_cast<std::size_t>(size / kMassBlock + 1));
        sum_block_masses(logits_of(row), 0, size, {}, 0, scale, masses.data());
        std::vector<std::uint64_t> expected(masses.size());
        for (std::size_t i = 0; i < row.size(); ++i) {
          expected[i / static_cast<std::size_t>(kMassBlock)] += token_weight(row[i], scale);
        }
        ASSERT_EQ(masses, expected);
      }
    }
  });
}

}  // namespace
}  // namespace tilewright
