// SPDX-License-Identifier: Apache-2.0
// A direct evaluator of expressions (int64, float64 with an error bound), and random expressions.
#pragma once

#include <gtest/gtest.h>
#include <tilewright/error.h>
#include <tilewright/variant.h>

#include <cmath>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "support/random.h"
#include "variant/bindings.h"

namespace tilewright::test {

inline Variant with_logits(const Expr& e) {
  Variant variant;
  variant.logits = e;
  return variant;
}
inline Variant with_mask(const Expr& e) {
  Variant variant;
  variant.mask = e;
  return variant;
}
inline Variant with_output(const Expr& e) {
  Variant variant;
  variant.output = e;
  return variant;
}
inline Variant with_rope(const RopeSpec& rope) {
  Variant variant;
  variant.rope = rope;
  return variant;
}
inline Variant with_softmax(bool softmax) {
  Variant variant;
  variant.softmax = softmax;
  return variant;
}

// The error of calling `call`, which must raise one of code invalid_argument.
template <typename Call>
std::string error_of(const Call& call) {
  try {
    call();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::invalid_argument) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "no error was raised";
  return {};
}

// Reals carry a bound of what f32 arithmetic may differ by; `unsure` when a comparison or a pole is
// within it, so that the f32 result may be anything.
struct RefValue {
  std::int64_t integer = 0;
  double real = 0;
  double error = 0;
  bool unsure = false;
};

struct RefInputs {
  RowContext row;
  std::int64_t kv_pos = 0;
  double logit = 0;  // or value
  const std::map<std::string, BoundParam>* params = nullptr;
  double function_error = 0;  // absolute, of tanh and log
};

class Reference {
 public:
  explicit Reference(const RefInputs& inputs) : in_(inputs) { known_.reserve(16); }
  RefValue eval(const Expr& e);

 private:
  RefValue integer_operator(ExprOp op, const RefValue& a, const RefValue& b) const;
  RefValue real_operator(ExprOp op, const RefValue& a, const RefValue& b) const;
  RefValue leaf(const ExprNode& node) const;

  const RefInputs& in_;
  // Expressions have few nodes: looked through faster than a tree, which counts where each key of
  // each row of a million masks is evaluated.
  std::vector<std::pair<const ExprNode*, RefValue>> known_;
};

using Rng = Random;
inline std::int64_t uniform(Rng& rng, std::int64_t low, std::int64_t high) {
  return rng.range(low, high);
}

// Random expressions over all inputs and params(), with shared subtrees.
class RandomExpressions {
 public:
  RandomExpressions(Rng& rng, bool with_logit, bool huge)
      : rng_(rng), with_logit_(with_logit), huge_(huge) {}

  Expr integer(int depth) { return shared(ValueType::integer, depth); }
  Expr real(int depth) { return shared(ValueType::real, depth); }
  Expr boolean(int depth) { return shared(ValueType::boolean, depth); }
  Rng& rng() { return rng_; }

  static std::vector<Param> params();

 private:
  Expr shared(ValueType type, int depth);
  Expr new_integer(int depth);
  Expr new_real(int depth);
  Expr new_boolean(int depth);
  Expr integer_leaf();
  Rng& rng_;
  bool with_logit_;
  bool huge_;
  std::vector<Expr> made_;  // the latest ones
};

}  // namespace tilewright::test
