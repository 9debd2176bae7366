// SPDX-License-Identifier: Apache-2.0
// Binding of a variant's parameters: what is accepted, what is refused and how it is said.
#include "variant/bindings.h"

#include <gmock/gmock.h>

#include <array>

#include "reference.h"

namespace tilewright::test {
namespace {

using expr::logit;
using testing::AllOf;
using testing::HasSubstr;

Variant example() {
  const Expr scale = Param::real("scale").with_default(2)();
  const Expr slope = Param::real("slope", 1)(expr::q_head());
  const Expr per_request = Param::real("by_request", 2)(expr::batch(), expr::kv_head());
  const Expr table = Param::real("table", 1)(expr::kv_pos());
  Variant variant;
  variant.logits = logit() * scale + slope + per_request + table;
  variant.mask = expr::kv_pos() < Param::integer("limit", 1)(expr::batch()) +
                                      Param::integer("offset").with_default(3)();
  return variant;
}

class Binding : public testing::Test {
 protected:
  std::vector<ParamValue> run_values() const {
    return {{"slope", TensorView(reals_.data(), DType::f32, {4})},
            {"by_request", TensorView(reals_.data(), DType::f32, {3, 2})},
            {"table", TensorView(reals_.data(), DType::f32, {5})}};
  }
  void bind(const std::vector<ParamValue>& values, Bind when = Bind::run) {
    binder_.bind(values, when, {4, 2, 3}, {}, bindings_);
  }
  std::string error(const ParamValue& value, Bind when = Bind::run) {
    std::vector<ParamValue> values = when == Bind::run ? run_values() : std::vector<ParamValue>{};
    std::erase_if(values, [&](const ParamValue& v) { return v.name == value.name; });
    values.push_back(value);
    return error_of([&] { bind(values, when); });
  }
  const BoundParam& param(const std::string& name) const {
    return bindings_.params[static_cast<std::size_t>(binder_.index_of(name))];
  }

  std::array<float, 24> reals_{1, 2, 3, 4, 5, 6, 7, 8};
  std::array<std::int32_t, 8> integers_{10, 20, 30, 40};
  ParamBinder binder_{example()};
  Bindings bindings_;
};

TEST_F(Binding, ValuesAndDefaults) {
  bind({{"limit", TensorView(integers_.data(), DType::i32, {3})}}, Bind::plan);
  EXPECT_FALSE(param("slope").bound);
  bind(run_values());
  const std::int64_t inside[] = {2, 1};
  const std::int64_t outside[] = {3, 0};
  const std::int64_t before[] = {-1, 0};
  EXPECT_EQ(param("limit").integer_at(inside), 30);
  EXPECT_EQ(param("limit").integer_at(outside), 0);
  EXPECT_EQ(param("limit").integer_at(before), 0);
  EXPECT_EQ(param("offset").integer_at(nullptr), 3);
  EXPECT_EQ(param("scale").real_at(nullptr), 2.0F);
  EXPECT_EQ(param("by_request").real_at(inside), 6.0F);
  EXPECT_EQ(param("by_request").real_at(outside), 0.0F);
  auto values = run_values();
  values.emplace_back("scale", 5.0);
  bind(values);
  EXPECT_EQ(param("scale").real_at(nullptr), 5.0F);
  EXPECT_EQ(param("limit").integer_at(inside), 30) << "the other binding time must stay";
  values.back() = {"scale", TensorView(reals_.data() + 6, DType::f32, {1})};
  bind(values);
  EXPECT_EQ(param("scale").real_at(nullptr), 7.0F);
  bind(run_values());
  EXPECT_EQ(param("scale").real_at(nullptr), 2.0F) << "the default must come back";
}

TEST_F(Binding, Strides) {
  auto values = run_values();
  values[1] = {"by_request", TensorView(reals_.data(), DType::f32, {3, 2}, {1, 4})};
  bind(values);
  const std::int64_t index[] = {2, 1};
  EXPECT_EQ(param("by_request").real_at(index), 7.0F);
}

TEST_F(Binding, TensorsMayHaveRoomForMoreRequests) {
  EXPECT_NO_THROW(bind({{"limit", TensorView(integers_.data(), DType::i32, {8})}}, Bind::plan));
}

TEST_F(Binding, Errors) {
  EXPECT_THAT(error({"nope", 1.0}), AllOf(HasSubstr("\"nope\""), HasSubstr("\"slope\"")));
  EXPECT_THAT(error({"offset", 1.0}), AllOf(HasSubstr("\"offset\""), HasSubstr("plan")));
  EXPECT_THAT(error({"slope", TensorView(reals_.data(), DType::f32, {4})}, Bind::plan),
              AllOf(HasSubstr("\"slope\""), HasSubstr("at run")));
  EXPECT_THAT(error({"slope", 1.0}), HasSubstr("tensor of rank 1"));
  EXPECT_THAT(error({"scale", TensorView(reals_.data(), DType::f32, {2})}), HasSubstr("[1]"));
  EXPECT_THAT(error({"scale", NAN}), HasSubstr("NaN"));
  EXPECT_THAT(error({"slope", TensorView(reals_.data(), DType::f32, {4, 1})}), HasSubstr("rank"));
  EXPECT_THAT(error({"slope", TensorView(reals_.data(), DType::f8e4m3, {4})}), HasSubstr("dtype"));
  EXPECT_THAT(error({"slope", TensorView(reals_.data(), DType::f32, {4}, {DeviceType::cuda, 1})}),
              HasSubstr("cpu"));
  EXPECT_THAT(error({"slope", TensorView(nullptr, DType::f32, {4})}), HasSubstr("null"));
  EXPECT_THAT(error({"slope", TensorView(reals_.data(), DType::f32, {5})}),
              AllOf(HasSubstr("query heads, 4")));
  EXPECT_THAT(error({"by_request", TensorView(reals_.data(), DType::f32, {2, 2})}),
              HasSubstr("requests, 3"));
  EXPECT_THAT(error({"by_request", TensorView(reals_.data(), DType::f32, {3, 4})}),
              HasSubstr("KV heads, 2"));
  auto twice = run_values();
  twice.push_back(twice[0]);
  EXPECT_THAT(error_of([&] { bind(twice); }), AllOf(HasSubstr("\"slope\""), HasSubstr("twice")));
  auto missing = run_values();
  missing.erase(missing.begin());
  EXPECT_THAT(error_of([&] { bind(missing); }),
              AllOf(HasSubstr("\"slope\""), HasSubstr("missing")));
}

TEST(ParamBinder, NoParameters) {
  const ParamBinder binder(variants::causal());
  Bindings bindings;
  EXPECT_TRUE(binder.params().empty());
  EXPECT_EQ(binder.index_of("x"), -1);
  EXPECT_THAT(error_of([&] {
                binder.bind({{"x", 1.0}}, Bind::run, {}, {}, bindings);
              }),
              HasSubstr("none"));
}

}  // namespace
}  // namespace tilewright::test
