// SPDX-License-Identifier: Apache-2.0
// ExprProgram against the direct evaluator, on every instruction set of this machine.
#include "variant/program.h"

#include <gmock/gmock.h>
#include <hwy/targets.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <limits>

#include "base/numeric.h"
#include "variant/program_check.h"

namespace tilewright::test {
namespace {

// Runs each test for each instruction set, and leaves the choice as it was.
class OnEveryTarget : public testing::TestWithParam<std::int64_t> {
 protected:
  void SetUp() override {
    hwy::SetSupportedTargetsForTest(GetParam());
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
  }
  void TearDown() override {
    hwy::SetSupportedTargetsForTest(0);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
  }
};

std::vector<std::int64_t> targets() {
  std::vector<std::int64_t> result;
  for (std::int64_t left = hwy::SupportedTargets(); left != 0; left &= left - 1) {
    result.push_back(left & -left);
  }
  return result;
}

INSTANTIATE_TEST_SUITE_P(Targets, OnEveryTarget, testing::ValuesIn(targets()),
                         [](const auto& test) {
                           std::string name = hwy::TargetName(test.param);
                           std::erase_if(name, [](char c) { return std::isalnum(c) == 0; });
                           return name;
                         });

TEST_P(OnEveryTarget, MasksOfIntegersAreExact) {
  Rng rng(1);
  RandomExpressions random(rng, false, false);
  for (int i = 0; i < 400; ++i) {
    check_mask(random.boolean(static_cast<int>(uniform(rng, 1, 4))), rng, false);
    if (HasFatalFailure()) return;
  }
}

TEST_P(OnEveryTarget, MasksAreExactWhereIntegersOverflow) {
  Rng rng(2);
  RandomExpressions random(rng, false, true);
  for (int i = 0; i < 400; ++i) {
    check_mask(random.boolean(static_cast<int>(uniform(rng, 1, 4))), rng, true);
    if (HasFatalFailure()) return;
  }
}

TEST_P(OnEveryTarget, LogitsAreWithinRounding) {
  Rng rng(3);
  RandomExpressions random(rng, true, false);
  Sureness sureness;
  for (int i = 0; i < 500; ++i) {
    check_logits(random.real(static_cast<int>(uniform(rng, 0, 4))), rng, sureness);
    if (HasFatalFailure()) return;
  }
  EXPECT_LT(sureness.skipped, sureness.checked) << "the reference gives up too often";
}

float eval_at(const Expr& e, float x) {
  const ParamBinder binder(with_logits(e));
  const ExprProgram program(e, binder);
  const Scratch scratch = make_scratch(program);
  const std::int32_t kv_pos = 3;
  float out = 0;
  program.eval_logits({}, {}, &kv_pos, &x, &out, 1, scratch.get());
  return out;
}

TEST_P(OnEveryTarget, SpecialReals) {
  using expr::logit;
  const float inf = std::numeric_limits<float>::infinity();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float largest = std::numeric_limits<float>::max();
  EXPECT_EQ(eval_at(exp(logit()), inf), inf);
  EXPECT_EQ(eval_at(exp(logit()), 89.0F), inf);
  EXPECT_EQ(eval_at(exp(logit()), largest), inf);
  EXPECT_EQ(eval_at(exp(logit()), -inf), 0.0F);
  EXPECT_EQ(eval_at(exp(logit()), -largest), 0.0F);
  EXPECT_TRUE(std::isnan(eval_at(exp(logit()), nan)));
  EXPECT_EQ(eval_at(log(logit()), 0.0F), -inf);
  EXPECT_EQ(eval_at(log(logit()), inf), inf);
  EXPECT_TRUE(std::isnan(eval_at(log(logit()), -1.0F)));
  EXPECT_TRUE(std::isnan(eval_at(log(logit()), nan)));
  EXPECT_NEAR(eval_at(log(logit()), 1e-40F), std::log(1e-40), 1e-3);
  EXPECT_EQ(eval_at(tanh(logit()), inf), 1.0F);
  EXPECT_EQ(eval_at(tanh(logit()), -largest), -1.0F);
  EXPECT_TRUE(std::isnan(eval_at(tanh(logit()), nan)));
  EXPECT_EQ(eval_at(sigmoid(logit()), -largest), 0.0F);
  EXPECT_EQ(eval_at(sigmoid(logit()), inf), 1.0F);
  EXPECT_TRUE(std::isnan(eval_at(sigmoid(logit()), nan)));
  // min(a, b) is a < b ? a : b, max(a, b) is b < a ? a : b: the second where one is NaN.
  EXPECT_EQ(eval_at(min(logit(), 2.0), nan), 2.0F);
  EXPECT_TRUE(std::isnan(eval_at(min(2.0, logit()), nan)));
  EXPECT_EQ(eval_at(max(logit(), 2.0), nan), 2.0F);
  EXPECT_TRUE(std::isnan(eval_at(max(2.0, logit()), nan)));
  EXPECT_EQ(eval_at(where(logit() == logit(), 1.0, 0.0), nan), 0.0F);
  EXPECT_EQ(eval_at(where(logit() != logit(), 1.0, 0.0), nan), 1.0F);
  EXPECT_EQ(eval_at(where(!(logit() < 0.0), 1.0, 0.0), nan), 1.0F);
  EXPECT_EQ(eval_at(where(logit() < 0.0, nan, 5.0), 1.0F), 5.0F);
  EXPECT_TRUE(std::signbit(eval_at(-logit(), 0.0F)));
}

TEST_P(OnEveryTarget, IntegerDivisionAtTheEdgeOf32Bits) {
  const Expr lowest = expr::kv_pos() + -(std::int64_t{1} << 31);
  const std::vector<std::int32_t> kv_pos = {0, 1, 5};
  const auto holds = [&](const Expr& mask) {
    const ExprProgram program(mask, ParamBinder(with_mask(mask)));
    const Scratch scratch = make_scratch(program);
    std::vector<std::uint8_t> out(kv_pos.size());
    program.eval_mask({}, {}, kv_pos.data(), out.data(), 3, scratch.get());
    return out;
  };
  EXPECT_THAT(holds(mod(lowest, -1) == 0), testing::Each(1));
  EXPECT_THAT(holds(floor_div(lowest, -1) == -lowest), testing::Each(1));
  EXPECT_THAT(holds(floor_div(lowest, 0) == 0), testing::Each(1));
  EXPECT_THAT(holds(mod(lowest, 0) == 0), testing::Each(1));
  EXPECT_THAT(holds(floor_div(lowest, 2147483647) == where(expr::kv_pos() == 0, -2, -1)),
              testing::Each(1));
  EXPECT_THAT(holds(mod(lowest, 2147483647) == mod(expr::kv_pos() - 1, 2147483647)),
              testing::Each(1));
}

// Tables of every dtype, read in order, with gaps, backwards and beyond their ends.
TEST_P(OnEveryTarget, TablesOfEveryDType) {
  constexpr std::int64_t kColumns = 60;
  std::array<std::uint8_t, 3 * (kColumns + 4) * 4> bytes{};
  Rng rng(77);
  for (const DType dtype :
       {DType::i32, DType::i8, DType::u8, DType::f32, DType::f16, DType::bf16}) {
    const bool real = is_floating_point(dtype);
    for (std::int64_t i = 0; i < 3 * (kColumns + 4); ++i) {
      const auto value =
          static_cast<std::int32_t>(uniform(rng, dtype == DType::u8 ? 0 : -100, 100));
      if (real) {
        store_element(bytes.data(), dtype, i, static_cast<float>(value));
      } else if (dtype == DType::i32) {
        std::memcpy(bytes.data() + 4 * i, &value, 4);
      } else {
        bytes[static_cast<std::size_t>(i)] = static_cast<std::uint8_t>(value);
      }
    }
    const TensorView view(bytes.data(), dtype, {3, kColumns}, {kColumns + 4, 1});
    const auto value_at = [&](std::int64_t row, std::int64_t column) {
      if (row < 0 || row >= 3 || column < 0 || column >= kColumns) return 0.0F;
      const std::int64_t at = row * (kColumns + 4) + column;
      return real ? load_element(bytes.data(), dtype, at)
                  : static_cast<float>(load_integer(bytes.data(), dtype, at));
    };
    for (const auto& [scale, shift] : {std::pair{1, 0}, {1, -7}, {3, -20}, {-1, 40}, {1, 30}}) {
      const Param table = real ? Param::real("t", 2) : Param::integer("t", 2, Bind::run);
      const Expr e = to_real(table(expr::q_index() * 1, expr::kv_pos() * scale + shift));
      const ParamBinder binder(with_logits(e));
      const ExprProgram program(e, binder);
      Bindings bindings;
      binder.bind({{"t", view}}, Bind::run, {1, 1, 1, 1}, {}, bindings);
      const Scratch scratch = make_scratch(program);
      std::vector<std::int32_t> kv_pos(50);
      for (std::size_t i = 0; i < kv_pos.size(); ++i) kv_pos[i] = static_cast<std::int32_t>(i);
      const std::vector<float> logits(50, 1.0F);
      std::vector<float> out(50);
      for (const std::int64_t row : {-1, 0, 2, 3}) {
        program.eval_logits({.q_index = row}, bindings, kv_pos.data(), logits.data(), out.data(),
                            50, scratch.get());
        for (std::size_t i = 0; i < out.size(); ++i) {
          ASSERT_EQ(out[i], value_at(row, kv_pos[i] * scale + shift))
              << dtype_name(dtype) << " " << row << " " << i;
        }
      }
    }
  }
}

TEST_P(OnEveryTarget, OutputTransform) {
  const Expr e = expr::value() * 2.0 + to_real(expr::q_head());
  const ParamBinder binder(with_output(e));
  const ExprProgram program(e, binder);
  const Scratch scratch = make_scratch(program);
  std::vector<float> values(77);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i);
  program.eval_output({.q_head = 5}, {}, values.data(), values.data(), 77, scratch.get());
  for (std::size_t i = 0; i < values.size(); ++i) {
    EXPECT_EQ(values[i], static_cast<float>(2 * i + 5));
  }
}

TEST_P(OnEveryTarget, ResultsThatDoNotVaryWithTheKey) {
  const std::vector<std::int32_t> kv_pos(9);
  const std::vector<float> logits(9, 1.0F);
  const auto mask_of = [&](const Expr& e) {
    const ExprProgram program(e, ParamBinder(with_mask(e)));
    const Scratch scratch = make_scratch(program);
    std::vector<std::uint8_t> out(9, 7);
    program.eval_mask({.q_pos = 4}, {}, kv_pos.data(), out.data(), 9, scratch.get());
    return out;
  };
  EXPECT_THAT(mask_of(expr::q_pos() == 4), testing::Each(1));
  EXPECT_THAT(mask_of(expr::q_pos() == 5), testing::Each(0));
  EXPECT_THAT(mask_of(Expr(true)), testing::Each(1));
  const Expr e = to_real(expr::q_pos()) / 8.0;
  const ExprProgram program(e, ParamBinder(with_logits(e)));
  const Scratch scratch = make_scratch(program);
  std::vector<float> out(9);
  program.eval_logits({.q_pos = 4}, {}, kv_pos.data(), logits.data(), out.data(), 9, scratch.get());
  EXPECT_THAT(out, testing::Each(0.5F));
}

TEST(ExprProgram, EmptyExpressionIsNotDefined) {
  EXPECT_FALSE(ExprProgram().defined());
  EXPECT_FALSE(ExprProgram(Expr(), ParamBinder(Variant{})).defined());
  EXPECT_EQ(ExprProgram().scratch_bytes(), 0U);
}

}  // namespace
}  // namespace tilewright::test
