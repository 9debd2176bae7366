// SPDX-License-Identifier: Apache-2.0
// ExprProgram against the direct evaluator, on every instruction set of this machine.
#include "variant/program.h"

#include <gmock/gmock.h>
#include <hwy/targets.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>

#include "base/numeric.h"
#include "reference.h"

namespace tilewright::test {
namespace {

constexpr std::int64_t kBig = std::numeric_limits<std::int32_t>::max();

struct AlignedDelete {
  void operator()(void* p) const { std::free(p); }
};
using Scratch = std::unique_ptr<void, AlignedDelete>;
Scratch make_scratch(const ExprProgram& program) {
  const std::size_t bytes = (program.scratch_bytes() + 127) / 64 * 64;
  Scratch scratch(std::aligned_alloc(64, bytes));
  std::memset(scratch.get(), 0xFF, bytes);  // NaN, and not 0
  return scratch;
}

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

// Random values for the parameters of RandomExpressions.
struct RandomParams {
  std::array<float, 8> slope{};
  std::array<float, 64> bias{};
  std::array<std::int32_t, 4> i1{};
  std::array<std::int32_t, 60> table{};
  std::vector<ParamValue> run_values;
  std::vector<ParamValue> plan_values;

  RandomParams(Rng& rng, bool huge) {
    const auto real = [&] { return static_cast<float>(uniform(rng, -3000, 3000)) / 1000; };
    const auto integer = [&] {
      return static_cast<std::int32_t>(
          huge && uniform(rng, 0, 1) == 0 ? uniform(rng, -kBig - 1, kBig) : uniform(rng, -30, 30));
    };
    std::generate(slope.begin(), slope.end(), real);
    std::generate(bias.begin(), bias.end(), real);
    std::generate(i1.begin(), i1.end(), integer);
    std::generate(table.begin(), table.end(), integer);
    run_values.emplace_back("r0", static_cast<double>(real()));
    run_values.emplace_back("slope", TensorView(slope.data(), DType::f32, {8}));
    // Strides that are not those of a dense tensor.
    run_values.emplace_back("bias", TensorView(bias.data(), DType::f32, {8, 8}, {1, 8}));
    plan_values.emplace_back("i0", static_cast<double>(integer()));
    plan_values.emplace_back("i1", TensorView(i1.data(), DType::i32, {4}));
    plan_values.emplace_back("table", TensorView(table.data(), DType::i32, {3, 4, 5}));
  }

  void bind(const ParamBinder& binder, Bindings& bindings,
            std::map<std::string, BoundParam>& by_name) {
    const auto known = [&](const std::vector<ParamValue>& all) {
      std::vector<ParamValue> used;
      for (const ParamValue& value : all) {
        if (binder.index_of(value.name) >= 0) used.push_back(value);
      }
      return used;
    };
    const ParamExtents extents{8, 8, 4};
    binder.bind(known(run_values), Bind::run, extents, {}, bindings);
    binder.bind(known(plan_values), Bind::plan, extents, {}, bindings);
    for (std::size_t i = 0; i < binder.params().size(); ++i) {
      by_name[binder.params()[i].name()] = bindings.params[i];
    }
  }
};

struct RandomRow {
  RowContext row;
  std::vector<std::int32_t> kv_pos;
  std::vector<float> logits;

  RandomRow(Rng& rng, bool huge) {
    const std::int64_t most = huge ? kBig : 100;
    // A query may stand before the first key.
    row = {uniform(rng, -most / 10, most),
           uniform(rng, 0, 7),
           uniform(rng, 0, 7),
           uniform(rng, 0, 3),
           uniform(rng, 0, most),
           uniform(rng, 0, most),
           uniform(rng, 0, most),
           uniform(rng, 0, most)};
    const auto n = static_cast<std::size_t>(
        uniform(rng, 0, 3) == 0 ? kProgramWidth : uniform(rng, 1, kProgramWidth));
    for (std::size_t i = 0; i < n; ++i) {
      kv_pos.push_back(static_cast<std::int32_t>(
          huge && uniform(rng, 0, 3) == 0 ? uniform(rng, kBig - 3, kBig) : uniform(rng, 0, most)));
      logits.push_back(static_cast<float>(uniform(rng, -40000, 40000)) / 1000);
    }
  }

  RefInputs at(std::size_t i, const std::map<std::string, BoundParam>& params) const {
    return {row, kv_pos[i], static_cast<double>(logits[i]), &params};
  }
};

void check_mask(const Expr& mask, RandomExpressions& random, bool huge) {
  const ParamBinder binder(with_mask(mask));
  const ExprProgram program(mask, binder);
  const Scratch scratch = make_scratch(program);
  for (int repeat = 0; repeat < 3; ++repeat) {
    RandomParams params(random.rng(), huge);
    Bindings bindings;
    std::map<std::string, BoundParam> by_name;
    params.bind(binder, bindings, by_name);
    const RandomRow row(random.rng(), huge);
    std::vector<std::uint8_t> out(row.kv_pos.size() + 1, 77);
    program.eval_mask(row.row, bindings, row.kv_pos.data(), out.data(),
                      static_cast<int>(row.kv_pos.size()), scratch.get());
    for (std::size_t i = 0; i < row.kv_pos.size(); ++i) {
      const RefInputs inputs = row.at(i, by_name);
      const RefValue expected = Reference(inputs).eval(mask);
      if (expected.unsure) continue;
      ASSERT_EQ(out[i], expected.integer)
          << "kv_pos " << row.kv_pos[i] << " q_pos " << row.row.q_pos << "\n"
          << with_mask(mask).serialize();
    }
    EXPECT_EQ(out.back(), 77) << "written past the end";
  }
}

TEST_P(OnEveryTarget, MasksOfIntegersAreExact) {
  RandomExpressions random(1, false, false);
  for (int i = 0; i < 400; ++i) {
    check_mask(random.boolean(static_cast<int>(uniform(random.rng(), 1, 4))), random, false);
    if (HasFatalFailure()) return;
  }
}

TEST_P(OnEveryTarget, MasksAreExactWhereIntegersOverflow) {
  RandomExpressions random(2, false, true);
  for (int i = 0; i < 400; ++i) {
    check_mask(random.boolean(static_cast<int>(uniform(random.rng(), 1, 4))), random, true);
    if (HasFatalFailure()) return;
  }
}

TEST_P(OnEveryTarget, LogitsAreWithinRounding) {
  RandomExpressions random(3, true, false);
  std::int64_t checked = 0;
  std::int64_t skipped = 0;
  for (int round = 0; round < 500; ++round) {
    const Expr e = random.real(static_cast<int>(uniform(random.rng(), 0, 4)));
    const ParamBinder binder(with_logits(e));
    const ExprProgram program(e, binder);
    const Scratch scratch = make_scratch(program);
    RandomParams params(random.rng(), false);
    Bindings bindings;
    std::map<std::string, BoundParam> by_name;
    params.bind(binder, bindings, by_name);
    const RandomRow row(random.rng(), false);
    const int n = static_cast<int>(row.logits.size());
    std::vector<float> out(row.logits.size() + 1, 77.0F);
    program.eval_logits(row.row, bindings, row.kv_pos.data(), row.logits.data(), out.data(), n,
                        scratch.get());
    EXPECT_EQ(out.back(), 77.0F) << "written past the end";
    std::vector<float> in_place = row.logits;
    program.eval_logits(row.row, bindings, row.kv_pos.data(), in_place.data(), in_place.data(), n,
                        scratch.get());
    for (std::size_t i = 0; i < row.logits.size(); ++i) {
      ASSERT_EQ(std::memcmp(&in_place[i], &out[i], sizeof(float)), 0) << "in place";
      const RefInputs inputs = row.at(i, by_name);
      const RefValue expected = Reference(inputs).eval(e);
      ++(expected.unsure ? skipped : checked);
      if (expected.unsure) continue;
      ASSERT_NEAR(static_cast<double>(out[i]), expected.real, 2 * expected.error + 1e-30)
          << "logit " << row.logits[i] << " kv_pos " << row.kv_pos[i] << "\n"
          << with_logits(e).serialize();
    }
  }
  EXPECT_LT(skipped, checked) << "the reference gives up too often to prove anything";
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
