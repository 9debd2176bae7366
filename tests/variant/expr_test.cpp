// SPDX-License-Identifier: Apache-2.0
// Expressions: types, errors, bounds, validation, and the text form.
#include <gmock/gmock.h>
#include <tilewright/variant.h>

#include <limits>

#include "reference.h"

namespace tilewright::test {
namespace {

using expr::kv_pos;
using expr::logit;
using expr::q_head;
using expr::q_pos;
using testing::AllOf;
using testing::HasSubstr;

TEST(Expr, Types) {
  EXPECT_EQ(Expr(1).type(), ValueType::integer);
  EXPECT_EQ(Expr(1.0).type(), ValueType::real);
  EXPECT_EQ(Expr(true).type(), ValueType::boolean);
  EXPECT_EQ((kv_pos() + 1).type(), ValueType::integer);
  EXPECT_EQ((kv_pos() + 1.5).type(), ValueType::real);
  EXPECT_EQ((logit() * 2).type(), ValueType::real);
  EXPECT_EQ((kv_pos() / q_pos()).type(), ValueType::real);
  EXPECT_EQ(tanh(kv_pos()).type(), ValueType::real);
  EXPECT_EQ(to_real(kv_pos() < 3).type(), ValueType::real);
  EXPECT_EQ((kv_pos() < 2.5).type(), ValueType::boolean);
  EXPECT_EQ(where(kv_pos() < 3, 1, 2.0).type(), ValueType::real);
  EXPECT_EQ(where(kv_pos() < 3, 1, 2).type(), ValueType::integer);
  EXPECT_EQ(where(kv_pos() < 3, kv_pos() < 1, true).type(), ValueType::boolean);
  EXPECT_EQ(((kv_pos() < 3) == Expr(true)).type(), ValueType::boolean);
}

TEST(Expr, ConstantsConvertExactly) {
  const Expr sum = logit() + 3;
  EXPECT_EQ(sum.node().args[1].node().op, ExprOp::constant);
  EXPECT_EQ(sum.node().args[1].node().real, 3.0);
  EXPECT_EQ(Expr(0.1).node().real, static_cast<double>(0.1F));
}

TEST(Expr, WrongOperandsAreNamed) {
  EXPECT_THAT(error_of([] { return !logit(); }),
              AllOf(HasSubstr("logical_not"), HasSubstr("real")));
  EXPECT_THAT(error_of([] { return logit() && (q_pos() < 1); }),
              AllOf(HasSubstr("logical_and(real and boolean)")));
  EXPECT_THAT(error_of([] { return mod(logit(), 2); }),
              AllOf(HasSubstr("mod(real and integer)"), HasSubstr("integers")));
  EXPECT_THAT(error_of([] { return (q_pos() < 1) + 1; }), HasSubstr("add(boolean and integer)"));
  EXPECT_THAT(error_of([] { return (q_pos() < 1) + logit(); }), HasSubstr("add(boolean and real)"));
  EXPECT_THAT(error_of([] { return (q_pos() < 1) < (q_pos() < 2); }),
              HasSubstr("lt(boolean and boolean)"));
  EXPECT_THAT(error_of([] { return (q_pos() < 1) == 1; }), HasSubstr("eq(boolean and integer)"));
  EXPECT_THAT(error_of([] { return where(q_pos(), 1, 2); }),
              HasSubstr("where(integer, integer and integer)"));
  EXPECT_THAT(error_of([] { return where(q_pos() < 1, true, 2); }), HasSubstr("where(boolean"));
  EXPECT_THAT(error_of([] { return exp(q_pos() < 1); }), HasSubstr("exp(boolean)"));
  EXPECT_THAT(error_of([] { return Expr() + 1; }), HasSubstr("empty"));
  EXPECT_THAT(error_of([] { return Expr().type(); }), HasSubstr("empty"));
}

TEST(Param, Declarations) {
  EXPECT_THAT(error_of([] { Param::real(""); }), HasSubstr("identifier"));
  EXPECT_THAT(error_of([] { Param::real("a b"); }), HasSubstr("\"a b\""));
  EXPECT_THAT(error_of([] { Param::real("1a"); }), HasSubstr("identifier"));
  EXPECT_THAT(error_of([] { Param::real("a", 4); }), HasSubstr("rank 4"));
  EXPECT_THAT(error_of([] { Param::real("a", 1).with_default(1); }), HasSubstr("rank 1"));
  EXPECT_THAT(error_of([] { Param::real("a").with_default(NAN); }), HasSubstr("NaN"));
  EXPECT_THAT(error_of([] { Param::integer("a").with_default(0.5); }), HasSubstr("0.5"));
  EXPECT_THAT(error_of([] { Param::integer("a").with_default(3e9); }), HasSubstr("32-bit"));
  EXPECT_THAT(error_of([] { Param::real("a", 1)(); }), HasSubstr("rank is 1"));
  EXPECT_THAT(error_of([] { Param::real("a", 2)(q_pos()); }), HasSubstr("rank is 2"));
  EXPECT_THAT(error_of([] { Param::real("a", 1)(logit()); }), HasSubstr("index that is real"));
  EXPECT_THAT(error_of([] { Param::real("a", 1)(Expr()); }), HasSubstr("empty"));
}

TEST(Variant, Params) {
  const Param a = Param::real("a");
  const Param b = Param::integer("b", 1);
  Variant variant = with_logits(logit() * a() + to_real(b(q_pos())) + a());
  variant.mask = kv_pos() < b(q_pos());
  ASSERT_EQ(variant.params().size(), 2U);
  EXPECT_TRUE(variant.params()[0] == a);
  EXPECT_TRUE(variant.params()[1] == b);
  variant.mask = variant.mask && Param::integer("a")() < kv_pos();
  EXPECT_THAT(error_of([&] { variant.params(); }), HasSubstr("\"a\" has two declarations"));
}

TEST(Variant, Validate) {
  const auto error = [](const Variant& variant) { return error_of([&] { variant.validate(); }); };
  EXPECT_NO_THROW(Variant{}.validate());
  EXPECT_THAT(error(with_logits(kv_pos() + 1)), HasSubstr("logits is integer"));
  EXPECT_THAT(error(with_mask(kv_pos() + 1)), HasSubstr("mask is integer"));
  EXPECT_THAT(error(with_output(q_pos() < 1)), HasSubstr("output is boolean"));
  EXPECT_THAT(error(with_logits(expr::value())), HasSubstr("logits reads value"));
  EXPECT_THAT(error(with_mask(logit() < 1.0)), HasSubstr("mask reads logit"));
  EXPECT_THAT(error(with_mask(expr::value() < 1.0)), HasSubstr("mask reads value"));
  EXPECT_THAT(error(with_output(logit())), HasSubstr("output reads logit"));
  EXPECT_THAT(error(with_output(to_real(kv_pos()))), HasSubstr("output reads kv_pos"));
  EXPECT_THAT(error(with_rope(RopeSpec{.dim = 3})), HasSubstr("rope.dim is 3"));
  EXPECT_THAT(error(with_rope(RopeSpec{.theta = 0})), HasSubstr("rope.theta"));
  EXPECT_THAT(error(with_rope(RopeSpec{.position_scale = NAN})), HasSubstr("rope.position_scale"));
  Expr sum = logit();
  for (int i = 0; i <= Bindings::kMaxParams; ++i) {
    sum = sum + Param::real(std::string("p").append(std::to_string(i)))();
  }
  EXPECT_THAT(error(with_logits(sum)), HasSubstr("17 parameters"));
}

TEST(Variant, HandMadeNodesAreChecked) {
  const auto node = [](ExprOp op, ValueType type, std::vector<Expr> args) {
    return Expr(std::make_shared<const ExprNode>(ExprNode{op, type, 0, 0, {}, std::move(args), 1}));
  };
  const auto error = [&](const Expr& e) { return error_of([&] { with_mask(e).validate(); }); };
  EXPECT_THAT(error(node(ExprOp::lt, ValueType::boolean, {kv_pos()})), HasSubstr("lt"));
  EXPECT_THAT(error(node(ExprOp::lt, ValueType::boolean, {kv_pos(), Expr(1.0)})), HasSubstr("lt"));
  EXPECT_THAT(error(node(ExprOp::add, ValueType::boolean, {kv_pos(), kv_pos()})), HasSubstr("add"));
  EXPECT_THAT(error(node(ExprOp::lt, ValueType::boolean, {kv_pos(), Expr()})), HasSubstr("empty"));
  EXPECT_THAT(error(node(ExprOp::param, ValueType::boolean, {})), HasSubstr("param"));
  EXPECT_THAT(error(node(ExprOp::kv_pos, ValueType::boolean, {})), HasSubstr("kv_pos"));
  Expr deep = kv_pos() < 1;
  for (int i = 0; i < 400; ++i) deep = node(ExprOp::logical_not, ValueType::boolean, {deep});
  EXPECT_THAT(error(deep), HasSubstr("deep"));
}

TEST(Variant, GraphsAreBounded) {
  const auto deep = [] {
    Expr sum = logit();
    for (int i = 0; i < 1000000; ++i) sum = sum + 1.0;
  };
  EXPECT_THAT(error_of(deep), HasSubstr("128"));
  Expr wide = Expr(0.0);
  std::vector<Expr> level;
  level.reserve(300);
  for (int i = 0; i < 300; ++i) level.push_back(logit() + Expr(static_cast<double>(i)));
  while (level.size() > 1) {
    std::vector<Expr> next;
    for (std::size_t i = 0; i + 1 < level.size(); i += 2) next.push_back(level[i] + level[i + 1]);
    if (level.size() % 2 == 1) next.push_back(level.back());
    level = next;
  }
  EXPECT_THAT(error_of([&] { with_logits(level[0]).validate(); }), HasSubstr("512 nodes"));
  EXPECT_THAT(error_of([&] { (void)with_logits(level[0]).serialize(); }), HasSubstr("512 nodes"));
}

TEST(Serialize, TextIsStable) {
  EXPECT_EQ(variants::alibi().serialize(),
            "tilewright variant 1\n"
            "param slope real 1 run\n"
            "0 logit\n"
            "1 q_head\n"
            "2 param slope 1\n"
            "3 kv_pos\n"
            "4 q_pos\n"
            "5 sub 3 4\n"
            "6 to_real 5\n"
            "7 mul 2 6\n"
            "8 add 0 7\n"
            "9 le 3 4\n"
            "logits 8\n"
            "mask 9\n");
  EXPECT_EQ(Variant{}.serialize(), "tilewright variant 1\n");
}

TEST(Serialize, EqualGraphsAreEqualHoweverTheyShare) {
  const Expr x = kv_pos() + 1;
  const Variant shared = with_mask(x * x < 5);
  const Variant apart = with_mask((kv_pos() + 1) * (kv_pos() + 1) < 5);
  EXPECT_EQ(shared.serialize(), apart.serialize());
  EXPECT_TRUE(shared == apart);
  EXPECT_FALSE(shared == variants::causal());
  EXPECT_FALSE((with_softmax(false) == Variant{}));
  EXPECT_FALSE((with_rope(RopeSpec{}) == Variant{}));
  EXPECT_FALSE(variants::causal(-1, 30) == variants::causal(-1, 50));
  Expr sum = logit();
  for (int i = 0; i < 100; ++i) sum = sum + sum;
  EXPECT_LT(with_logits(sum).serialize().size(), 2000U);
}

void expect_round_trip(const Variant& variant) {
  const std::string text = variant.serialize();
  EXPECT_EQ(deserialize(text).serialize(), text);
}

TEST(Serialize, RoundTrip) {
  expect_round_trip({});
  expect_round_trip(variants::full());
  expect_round_trip(variants::full(30));
  expect_round_trip(variants::causal(1023, 50));
  expect_round_trip(variants::alibi());
  Variant all = with_output(expr::value() * Param::real("s", 3)(q_head(), expr::batch(), q_pos()));
  all.rope = RopeSpec{64, 1e6, 0.1, true};
  all.softmax = false;
  expect_round_trip(all);
  for (const RopeScaling& scaling :
       {RopeScaling{NtkScaling{1.5}}, RopeScaling{Llama3Scaling{8, 1, 4, 8192}},
        RopeScaling{YarnScaling{40, 4096, 31.5, 1.25, 0.1, false}},
        RopeScaling{LongRopeScaling{{1.1, 2, 64.5}, 1.19}}}) {
    const Variant scaled = with_rope({6, 1e6, 0.1, false, scaling});
    expect_round_trip(scaled);
    EXPECT_FALSE(scaled == with_rope({6, 1e6, 0.1, false}));
    EXPECT_EQ(*deserialize(scaled.serialize()).rope, *scaled.rope);
  }
  const double inf = std::numeric_limits<double>::infinity();
  for (const double x : {0.1, -0.0, 1e-45, 3.4e38, inf, -inf, static_cast<double>(NAN)}) {
    expect_round_trip(with_logits(logit() + x));
  }
  expect_round_trip(with_mask(kv_pos() < std::numeric_limits<std::int64_t>::min()));
  Rng rng(21);
  RandomExpressions random(rng, true, true);
  for (int i = 0; i < 300; ++i) {
    Variant variant = with_logits(random.real(static_cast<int>(uniform(rng, 0, 5))));
    expect_round_trip(variant);
  }
}

TEST(Serialize, MalformedTextIsRefused) {
  const auto error = [](const std::string& body) {
    return error_of([&] { deserialize("tilewright variant 1\n" + body); });
  };
  EXPECT_THAT(error_of([] { deserialize(""); }), HasSubstr("line 1"));
  EXPECT_THAT(error_of([] { deserialize("tilewright variant 2\n"); }), HasSubstr("line 1"));
  EXPECT_THAT(error("0 kv_pos\n1 nonsense 0\n"), AllOf(HasSubstr("line 3"), HasSubstr("operator")));
  EXPECT_THAT(error("0 neg 0\n"), AllOf(HasSubstr("line 2"), HasSubstr("not defined")));
  EXPECT_THAT(error("0 neg 99999999999999999999\n"), HasSubstr("number of a node"));
  EXPECT_THAT(error("1 kv_pos\n"), HasSubstr("numbered"));
  EXPECT_THAT(error("0\n"), HasSubstr("operator is missing"));
  EXPECT_THAT(error("0 kv_pos\n1 add 0\n"), AllOf(HasSubstr("line 3"), HasSubstr("operands")));
  EXPECT_THAT(error("0 kv_pos\n1 kv_pos 0\n"), HasSubstr("no operands"));
  EXPECT_THAT(error("0 kv_pos\n1 logical_not 0\n"), HasSubstr("logical_not(integer)"));
  EXPECT_THAT(error("0 integer x\n"), HasSubstr("\"x\""));
  EXPECT_THAT(error("0 integer 99999999999999999999\n"), HasSubstr("not an integer"));
  EXPECT_THAT(error("0 boolean 2\n"), HasSubstr("0 or 1"));
  EXPECT_THAT(error("0 real\n"), HasSubstr("one value"));
  EXPECT_THAT(error("0 param p\n"), HasSubstr("not declared"));
  EXPECT_THAT(error("0 param\n"), HasSubstr("not declared"));
  EXPECT_THAT(error("param p real 0\n"), HasSubstr("param NAME"));
  EXPECT_THAT(error("param p real 9 run\n"), HasSubstr("rank 9"));
  EXPECT_THAT(error("param p real 0 run\nparam p real 0 run\n"), HasSubstr("twice"));
  EXPECT_THAT(error("0 kv_pos\nmask 0\n"), HasSubstr("mask is integer"));
  EXPECT_THAT(error("mask 0\n"), HasSubstr("not defined"));
  EXPECT_THAT(error("0 boolean 1\nmask 0\nmask 0\n"), HasSubstr("twice"));
  EXPECT_THAT(error("rope 1 2\n"), HasSubstr("rope DIM"));
  EXPECT_THAT(error("rope 3 2 1 half\n"), HasSubstr("rope.dim"));
  EXPECT_THAT(error("rope 4 2 1 half linear 2\n"), HasSubstr("a scaling must be"));
  EXPECT_THAT(error("rope 4 2 1 half yarn 2 4096\n"), HasSubstr("a scaling must be"));
  EXPECT_THAT(error("rope 4 2 1 half longrope\n"), HasSubstr("a scaling must be"));
  EXPECT_THAT(error("rope 4 2 1 half ntk x\n"), HasSubstr("not a number"));
  EXPECT_THAT(error("rope 4 2 1 half ntk -1\n"), HasSubstr("rope.scaling.factor"));
  EXPECT_THAT(error("softmax\n"), HasSubstr("softmax"));
}

TEST(Serialize, DamagedTextNeverCrashes) {
  const std::string text = variants::causal(7, 30).serialize();
  Rng rng(22);
  for (int i = 0; i < 3000; ++i) {
    std::string damaged = text;
    for (std::int64_t n = uniform(rng, 1, 3); n > 0; --n) {
      const auto at =
          static_cast<std::size_t>(uniform(rng, 0, static_cast<std::int64_t>(damaged.size()) - 1));
      if (uniform(rng, 0, 2) == 0) {
        damaged.erase(at, 1);
      } else {
        damaged[at] = static_cast<char>(uniform(rng, 9, 126));
      }
    }
    try {
      const Variant variant = deserialize(damaged);
      EXPECT_EQ(deserialize(variant.serialize()).serialize(), variant.serialize());
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::invalid_argument);
    }
  }
}

}  // namespace
}  // namespace tilewright::test
