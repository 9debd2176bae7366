// SPDX-License-Identifier: Apache-2.0
// The ready-made variants against their formulas.
#include <gmock/gmock.h>

#include <cstdlib>
#include <functional>
#include <limits>
#include <memory>

#include "reference.h"
#include "variant/mask.h"
#include "variant/program.h"

namespace tilewright::test {
namespace {

using testing::HasSubstr;
using Mask = std::function<bool(std::int64_t q, std::int64_t k)>;

std::unique_ptr<void, decltype(&std::free)> scratch_for(const ExprProgram& program) {
  return {std::aligned_alloc(64, (program.scratch_bytes() + 127) / 64 * 64), &std::free};
}

void expect_mask(const Variant& variant, const Mask& expected) {
  variant.validate();
  const ParamBinder binder(variant);
  const ExprProgram program(variant.mask, binder);
  const MaskAnalysis analysis(variant);
  EXPECT_EQ(analysis.mask_class(), program.defined() ? MaskClass::closed_form : MaskClass::none);
  const auto scratch = scratch_for(program);
  std::vector<std::int32_t> keys(50);
  for (std::size_t i = 0; i < keys.size(); ++i) keys[i] = static_cast<std::int32_t>(i);
  for (const std::int64_t q : {-3, 0, 1, 7, 20, 49, 60}) {
    std::vector<std::uint8_t> seen(keys.size(), 1);
    if (program.defined()) {
      program.eval_mask({.q_pos = q}, {}, keys.data(), seen.data(), 50, scratch.get());
    }
    const MaskRanges ranges = analysis.ranges({.q_pos_min = q, .q_pos_max = q}, {});
    EXPECT_TRUE(ranges.exact);
    for (std::int64_t k = 0; k < 50; ++k) {
      EXPECT_EQ(seen[static_cast<std::size_t>(k)] != 0, expected(q, k)) << q << " " << k;
      EXPECT_EQ(ranges.needed.contains(k), expected(q, k)) << q << " " << k;
    }
  }
}

TEST(Variants, Masks) {
  expect_mask(variants::full(), [](auto, auto) { return true; });
  expect_mask(variants::causal(), [](auto q, auto k) { return k <= q; });
  for (const std::int64_t left : {0, 1, 5, 100}) {
    expect_mask(variants::causal(left), [=](auto q, auto k) { return k <= q && k >= q - left; });
    expect_mask(variants::sliding_window(left, 3),
                [=](auto q, auto k) { return k <= q + 3 && k >= q - left; });
    expect_mask(variants::sliding_window(left, -1), [=](auto q, auto k) { return k >= q - left; });
  }
  expect_mask(variants::sliding_window(-1, 0), [](auto q, auto k) { return k <= q; });
  expect_mask(variants::sliding_window(-1, -1), [](auto, auto) { return true; });
  expect_mask(variants::causal(std::numeric_limits<std::int32_t>::max()),
              [](auto q, auto k) { return k <= q; });
  expect_mask(variants::alibi(), [](auto q, auto k) { return k <= q; });
}

std::vector<float> logits_of(const Variant& variant, const std::vector<ParamValue>& values,
                             const RowContext& row, const std::vector<float>& logits) {
  const ParamBinder binder(variant);
  const ExprProgram program(variant.logits, binder);
  const auto scratch = scratch_for(program);
  Bindings bindings;
  binder.bind(values, Bind::run, {2, 1, 1}, {}, bindings);
  std::vector<std::int32_t> keys(logits.size());
  for (std::size_t i = 0; i < keys.size(); ++i) keys[i] = static_cast<std::int32_t>(i);
  std::vector<float> out(logits.size());
  program.eval_logits(row, bindings, keys.data(), logits.data(), out.data(),
                      static_cast<int>(out.size()), scratch.get());
  return out;
}

TEST(Variants, SoftCap) {
  const std::vector<float> logits = {-1000, -60, -3, -1e-4F, 0, 1e-4F, 2, 45, 1000};
  for (const Variant& variant : {variants::full(30), variants::causal(-1, 30)}) {
    for (const double cap : {30.0, 5.0}) {
      const auto out = logits_of(variant,
                                 cap == 30.0 ? std::vector<ParamValue>{}
                                             : std::vector<ParamValue>{{"logits_soft_cap", cap}},
                                 {}, logits);
      for (std::size_t i = 0; i < logits.size(); ++i) {
        const double expected = cap * std::tanh(static_cast<double>(logits[i]) / cap);
        EXPECT_NEAR(static_cast<double>(out[i]), expected, 1e-6 * std::fabs(expected));
      }
    }
    EXPECT_EQ(logits_of(variant, {{"logits_soft_cap", 0.0}}, {}, logits), logits);
  }
  EXPECT_FALSE(variants::full().logits.defined());
  EXPECT_TRUE(variants::full().params().empty());
}

TEST(Variants, Alibi) {
  const float slopes[] = {0.5F, 0.0625F};
  const std::vector<ParamValue> values = {{"slope", TensorView(slopes, DType::f32, {2})}};
  const std::vector<float> logits = {1, -2, 3, 4.5F, 0, 7};
  for (const std::int64_t head : {0, 1}) {
    const auto out = logits_of(variants::alibi(), values, {.q_pos = 4, .q_head = head}, logits);
    for (std::size_t k = 0; k < logits.size(); ++k) {
      EXPECT_EQ(out[k], logits[k] + slopes[head] * (static_cast<float>(k) - 4.0F));
    }
  }
  EXPECT_THAT(error_of([] { logits_of(variants::alibi(), {}, {}, {1}); }), HasSubstr("\"slope\""));
}

TEST(Variants, BadArguments) {
  EXPECT_THAT(error_of([] { variants::full(-1); }), HasSubstr("logits_soft_cap is -1"));
  EXPECT_THAT(error_of([] { variants::causal(-1, NAN); }), HasSubstr("logits_soft_cap is nan"));
  EXPECT_THAT(error_of([] { variants::full(std::numeric_limits<double>::infinity()); }),
              HasSubstr("logits_soft_cap"));
  EXPECT_THAT(error_of([] { variants::causal(std::int64_t{1} << 31); }), HasSubstr("window_left"));
  EXPECT_THAT(error_of([] { variants::sliding_window(std::int64_t{1} << 40, 0); }),
              HasSubstr("left is"));
  EXPECT_THAT(error_of([] { variants::sliding_window(0, std::int64_t{1} << 40); }),
              HasSubstr("right is"));
}

}  // namespace
}  // namespace tilewright::test
