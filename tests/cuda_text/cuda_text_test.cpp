// SPDX-License-Identifier: Apache-2.0
// Device code of variants, as host code, against the CPU's evaluators: masks and ranges bit for
// bit, reals by the direct evaluator's bound of rounding.
#include "variant/cuda_text.h"

#include <gtest/gtest.h>
#include <tilewright/variants.h>

#include <cmath>
#include <cstring>
#include <map>
#include <memory>

#include "base/element.h"
#include "base/numeric.h"
#include "base/rope.h"
#include "cuda_text/cases.h"
#include "cuda_text/table.h"
#include "variant/graph.h"
#include "variant/mask_check.h"
#include "variant/program_check.h"

namespace tilewright::test {
namespace {

static_assert(tw::kParamF32 == static_cast<int>(DType::f32));
static_assert(tw::kParamF16 == static_cast<int>(DType::f16));
static_assert(tw::kParamBf16 == static_cast<int>(DType::bf16));
static_assert(tw::kParamI8 == static_cast<int>(DType::i8));
static_assert(tw::kParamI32 == static_cast<int>(DType::i32));
static_assert(tw::kParamU8 == static_cast<int>(DType::u8));

tw::ParamSlot slot_of(const BoundParam& param) {
  tw::ParamSlot slot{};
  slot.data = param.data;
  slot.real = static_cast<float>(param.scalar);
  slot.integer = static_cast<int>(param.scalar);
  slot.dtype = static_cast<int>(param.dtype);
  slot.rank = param.rank;
  for (std::size_t dim = 0; dim < 3; ++dim) {
    slot.shape[dim] = static_cast<int>(param.shape[dim]);
    slot.strides[dim] = param.strides[dim];
  }
  return slot;
}

tw::QueryRow device_row(const RowContext& row) {
  const auto i = [](std::int64_t value) { return static_cast<int>(value); };
  return {i(row.q_pos), i(row.q_head), i(row.kv_head), i(row.batch),
          i(row.q_len), i(row.kv_len), i(row.q_index), i(row.q_begin)};
}

// Random values for any variant's parameters, in tensors whose extents many reads are outside of.
class AnyParams {
 public:
  AnyParams(const Variant& variant, Rng& rng, bool huge) {
    const std::vector<Param> params = variant.params();
    for (std::size_t i = 0; i < params.size(); ++i) {
      BoundParam& bound = bindings.params[i];
      bound.bound = true;
      bound.rank = params[i].rank();
      const bool real = params[i].type() == ValueType::real;
      bound.dtype = real ? DType::f32 : DType::i32;
      std::int64_t count = 1;
      for (std::size_t dim = 0; dim < static_cast<std::size_t>(bound.rank); ++dim) {
        const std::size_t at = i % 2 == 0 ? dim : static_cast<std::size_t>(bound.rank) - 1 - dim;
        bound.shape[at] = uniform(rng, 3, bound.rank == 1 ? 90 : 12);
        bound.strides[at] = count;
        count *= bound.shape[at] + 1;
      }
      auto values = std::make_shared<std::vector<std::int32_t>>();
      for (std::int64_t n = 0; n < count; ++n) {
        const auto integer = static_cast<std::int32_t>(
            huge && uniform(rng, 0, 1) == 0 ? uniform(rng, -kBig - 1, kBig) : uniform(rng, -9, 90));
        const float number = static_cast<float>(uniform(rng, -3000, 3000)) / 1000;
        values->push_back(real ? static_cast<std::int32_t>(tw::bits_of(number)) : integer);
      }
      if (bound.rank > 0) bound.data = values->data();
      bound.scalar = real ? static_cast<double>(tw::float_of(static_cast<unsigned>((*values)[0])))
                          : (*values)[0];
      tw::ParamSlot slot = slot_of(bound);
      // Numbers may lie on the device.
      if (bound.rank == 0 && uniform(rng, 0, 1) == 0) {
        slot.data = values->data();
        slot.real = NAN;
        slot.integer = 12345;
      }
      slots.push_back(slot);
      by_name[params[i].name()] = bound;
      memory_.push_back(values);
    }
  }

  Bindings bindings;
  std::vector<tw::ParamSlot> slots;
  std::map<std::string, BoundParam> by_name;

 private:
  std::vector<std::shared_ptr<std::vector<std::int32_t>>> memory_;
};

struct CudaText : testing::Test {
  const std::vector<CudaCase> cases = cuda_cases();
  const std::vector<CudaEntry> table = cuda_table();

  // Calls check(case, entry, rng) for all of them.
  template <typename Check>
  void over_cases(const Check& check) const {
    ASSERT_EQ(cases.size(), table.size());
    for (std::size_t i = 0; i < cases.size(); ++i) {
      SCOPED_TRACE(testing::Message() << i << " " << cases[i].name);
      Rng rng(i + 1);
      check(cases[i], table[i], rng);
      if (HasFatalFailure()) return;
    }
  }
};

TEST_F(CudaText, TellsWhatThereIs) {
  over_cases([&](const CudaCase& c, const CudaEntry& e, Rng& /*rng*/) {
    const Variant& v = c.variant;
    EXPECT_EQ(e.has_logits, v.logits.defined());
    EXPECT_EQ(e.has_mask, v.mask.defined());
    EXPECT_EQ(e.has_output, v.output.defined());
    EXPECT_EQ(e.has_rope, v.rope.has_value());
    EXPECT_EQ(e.softmax, v.softmax);
    EXPECT_EQ(e.num_params, static_cast<int>(v.params().size()));
    const MaskAnalysis analysis(v);
    EXPECT_EQ(e.mask_class, static_cast<int>(analysis.mask_class()));
    EXPECT_EQ(e.one_interval, !v.mask.defined() || analysis.one_interval());
    bool heads = false;
    for (const ExprNode* node : topological_order({&v.mask})) {
      heads |= node->op == ExprOp::q_head || node->op == ExprOp::kv_head;
    }
    EXPECT_EQ(e.depends_on_head, heads);
  });
}

TEST_F(CudaText, Masks) {
  over_cases([&](const CudaCase& c, const CudaEntry& e, Rng& rng) {
    if (!c.variant.mask.defined()) {
      EXPECT_TRUE(e.mask({}, 0, nullptr));
      return;
    }
    const ParamBinder binder(c.variant);
    const ExprProgram program(c.variant.mask, binder);
    const Scratch scratch = make_scratch(program);
    for (int repeat = 0; repeat < 12; ++repeat) {
      const bool huge = repeat % 3 == 2;
      const AnyParams params(c.variant, rng, huge);
      RandomRow row(rng, huge);
      if (huge && repeat % 2 == 0) row.row.q_pos = uniform(rng, -kBig - 1, -kBig + 300);
      std::vector<std::uint8_t> expected(row.kv_pos.size());
      program.eval_mask(row.row, params.bindings, row.kv_pos.data(), expected.data(),
                        static_cast<int>(expected.size()), scratch.get());
      for (std::size_t i = 0; i < expected.size(); ++i) {
        const RefInputs inputs = row.at(i, params.by_name);
        // Comparisons of reals within rounding may go either way.
        if (Reference(inputs).eval(c.variant.mask).unsure) continue;
        ASSERT_EQ(e.mask(device_row(row.row), row.kv_pos[i], params.slots.data()), expected[i] != 0)
            << "q_pos " << row.row.q_pos << " kv_pos " << row.kv_pos[i] << "\n"
            << cuda_variant(c.variant, kCudaHeadDim);
      }
    }
  });
}

TEST_F(CudaText, LogitsAndOutputs) {
  Sureness sureness;
  over_cases([&](const CudaCase& c, const CudaEntry& e, Rng& rng) {
    for (int repeat = 0; repeat < 12; ++repeat) {
      const AnyParams params(c.variant, rng, false);
      const RandomRow row(rng, repeat % 4 == 3);
      for (std::size_t i = 0; i < row.logits.size(); ++i) {
        RefInputs inputs = row.at(i, params.by_name);
        inputs.function_error = 3e-7;
        const tw::QueryRow q = device_row(row.row);
        const auto check = [&](const Expr& expression, float result) {
          if (!expression.defined()) {
            ASSERT_EQ(result, row.logits[i]);
            return;
          }
          const RefValue expected = Reference(inputs).eval(expression);
          ++(expected.unsure ? sureness.skipped : sureness.checked);
          if (expected.unsure) return;
          ASSERT_NEAR(static_cast<double>(result), expected.real, expected.error + 1e-30)
              << "logit " << row.logits[i] << " kv_pos " << row.kv_pos[i] << "\n"
              << cuda_variant(c.variant, kCudaHeadDim);
        };
        check(c.variant.logits, e.logits(q, row.kv_pos[i], row.logits[i], params.slots.data()));
        check(c.variant.output, e.output(q, row.logits[i], params.slots.data()));
        if (HasFatalFailure()) return;
      }
    }
  });
  EXPECT_GT(sureness.checked, 20 * sureness.skipped);
}

void expect_same(const IntervalSet& a, const IntervalSet& b, const Variant& variant) {
  ASSERT_TRUE(plan::same_set(a, b)) << a.count << " and " << b.count << " intervals\n"
                                    << cuda_variant(variant, kCudaHeadDim);
}

TEST_F(CudaText, Ranges) {
  over_cases([&](const CudaCase& c, const CudaEntry& e, Rng& rng) {
    const MaskAnalysis analysis(c.variant);
    for (int repeat = 0; repeat < 60; ++repeat) {
      const bool huge = repeat % 3 == 2;
      const AnyParams params(c.variant, rng, huge);
      QueryRange queries = random_range(rng, huge ? kBig - 200 : 0);
      if (repeat == 59) queries.q_head_end = queries.q_head_begin + plan::kMaxMaskHeads + 1;
      if (repeat == 58) queries.q_pos_max = queries.q_pos_min - 1;
      std::vector<std::int32_t> positions;
      if (repeat % 4 == 1) scatter(queries, positions, rng);
      const MaskRanges expected = analysis.ranges(queries, params.bindings);
      const MaskRanges ranges = e.ranges(queries, params.slots.data());
      expect_same(ranges.needed, expected.needed, c.variant);
      expect_same(ranges.full, expected.full, c.variant);
      ASSERT_EQ(ranges.exact, expected.exact);
      const plan::MaskInterval one = e.interval(queries, params.slots.data());
      if (!e.one_interval) continue;
      const auto set_of = [](const Interval& interval) {
        return IntervalSet::of(interval.begin, interval.end);
      };
      const Interval hull = expected.needed.hull();
      expect_same(set_of(one.needed), set_of(hull), c.variant);
      expect_same(set_of(one.full), expected.full, c.variant);
      if (HasFatalFailure()) return;
    }
  });
}

TEST_F(CudaText, Rotations) {
  int ropes = 0;
  over_cases([&](const CudaCase& c, const CudaEntry& e, Rng& rng) {
    if (!c.variant.rope.has_value()) {
      EXPECT_EQ(e.rope_dim, 0);
      return;
    }
    ++ropes;
    const int dim = rope_dim(*c.variant.rope, kCudaHeadDim);
    ASSERT_EQ(e.rope_dim, dim);
    EXPECT_EQ(e.rope_interleaved, c.variant.rope->interleaved);
    const RopeFrequencies frequencies = rope_frequencies(*c.variant.rope, dim);
    for (int pair = 0; pair < dim / 2; ++pair) {
      for (int repeat = 0; repeat < 60; ++repeat) {
        const int most = repeat % 3 == 0 ? 1000 : repeat % 3 == 1 ? 1000000 : 1 << 30;
        const auto position = static_cast<int>(uniform(rng, -most / 10, most));
        const double angle = position * frequencies.values[static_cast<std::size_t>(pair)];
        const tw::Rotation rotation = e.rotation(pair, position);
        const auto amplitude = static_cast<double>(frequencies.amplitude);
        // In double the angle itself is off by 2^-53 of it.
        const double tolerance = 1e-6 + 2.5e-16 * std::fabs(angle);
        ASSERT_NEAR(static_cast<double>(rotation.cos), amplitude * std::cos(angle), tolerance);
        ASSERT_NEAR(static_cast<double>(rotation.sin), amplitude * std::sin(angle), tolerance);
      }
    }
  });
  EXPECT_GE(ropes, 5);
}

TEST(CudaParams, ReadsOfEveryDtype) {
  Rng rng(3);
  std::vector<std::uint8_t> bytes(4096);
  for (std::uint8_t& byte : bytes) byte = static_cast<std::uint8_t>(uniform(rng, 0, 255));
  for (const DType dtype :
       {DType::f32, DType::f16, DType::bf16, DType::i32, DType::i8, DType::u8}) {
    BoundParam param;
    param.rank = 2;
    param.data = bytes.data();
    param.dtype = dtype;
    param.shape = {5, 11, 0};
    param.strides = {13, 1, 0};
    const tw::ParamSlot slot = slot_of(param);
    for (std::int64_t row = -1; row <= 5; ++row) {
      for (std::int64_t column = -1; column <= 11; ++column) {
        const std::int64_t index[3] = {row, column, 0};
        const auto narrow = static_cast<int>(row);
        const auto wide = static_cast<long long>(column);
        if (is_floating_point(dtype)) {
          const float expected = param.real_at(index);
          const float result = tw::real_param(slot, narrow, wide);
          if (std::isnan(expected)) {
            EXPECT_TRUE(std::isnan(result));
          } else {
            EXPECT_EQ(result, expected) << dtype_name(dtype) << " " << row << " " << column;
          }
        } else {
          EXPECT_EQ(tw::integer_param(slot, narrow, wide), param.integer_at(index))
              << dtype_name(dtype) << " " << row << " " << column;
        }
      }
    }
    EXPECT_EQ(tw::integer_param(slot, 0LL, 1LL << 40), 0);
    EXPECT_EQ(tw::real_param(slot, -(1LL << 62), 0), 0.0F);
  }
}

TEST(CudaFunctions, SpecialValues) {
  constexpr float kInf = tw::kInfinity;
  const float nan = tw::float_of(0x7FC00000U);
  EXPECT_EQ(tw::exp_of(kInf), kInf);
  EXPECT_EQ(tw::exp_of(-kInf), 0.0F);
  EXPECT_EQ(tw::exp_of(1000.0F), kInf);
  EXPECT_EQ(tw::exp_of(-1000.0F), 0.0F);
  EXPECT_TRUE(std::isnan(tw::exp_of(nan)));
  EXPECT_EQ(tw::tanh_of(kInf), 1.0F);
  EXPECT_EQ(tw::tanh_of(-kInf), -1.0F);
  EXPECT_TRUE(std::isnan(tw::tanh_of(nan)));
  EXPECT_EQ(tw::sigmoid_of(kInf), 1.0F);
  EXPECT_EQ(tw::sigmoid_of(-kInf), 0.0F);
  EXPECT_EQ(tw::log_of(0.0F), -kInf);
  EXPECT_EQ(tw::log_of(kInf), kInf);
  EXPECT_TRUE(std::isnan(tw::log_of(-1.0F)));
  for (int i = -4000; i <= 4000; ++i) {
    const float x = static_cast<float>(i) * 0.02F;
    const double exact = std::exp(static_cast<double>(x));
    ASSERT_NEAR(static_cast<double>(tw::exp_of(x)), exact, 4e-7 * exact) << x;
    ASSERT_NEAR(static_cast<double>(tw::tanh_of(x)), std::tanh(static_cast<double>(x)), 3e-7) << x;
  }
}

// Texts are keys of compiled kernels: graphs that mean the same to a kernel share one.
TEST(CudaVariant, EqualGraphsHaveEqualTexts) {
  const auto window = [](const Expr& w) {
    return with_mask(expr::kv_pos() <= expr::q_pos() && expr::q_pos() - expr::kv_pos() < w);
  };
  EXPECT_EQ(cuda_variant(window(8)), cuda_variant(window(8)));
  EXPECT_NE(cuda_variant(window(8)), cuda_variant(window(9)));
}

// What runs in the inner loop stays in 32 bits: comparisons of the key's position with what is
// known of the row.
TEST(CudaVariant, CommonMasksCompareOnly) {
  for (const Variant& variant :
       {variants::causal(), variants::causal(128), variants::chunked_local(64),
        variants::block_causal(64), variants::attention_sink(4, 100), variants::prefix_lm(),
        variants::document()}) {
    const std::string text = cuda_variant(variant);
    const std::size_t begin = text.find("static bool mask(const MaskRow&");
    ASSERT_NE(begin, std::string::npos);
    const std::string mask = text.substr(begin, text.find("}\n", begin) - begin);
    EXPECT_EQ(mask.find("i64"), std::string::npos) << mask;
    EXPECT_EQ(mask.find("params["), std::string::npos) << mask;
    for (std::size_t at = mask.find("kv_pos", mask.find('{')); at != std::string::npos;
         at = mask.find("kv_pos", at + 1)) {
      const std::string next = mask.substr(at + 6, 3);
      EXPECT_TRUE(next == " <=" || next == " > " || next == " < " || next == " >=") << mask;
    }
  }
}

}  // namespace
}  // namespace tilewright::test
