// SPDX-License-Identifier: Apache-2.0
// The public functions that build expression graphs.
#include <memory>
#include <utility>

#include "base/checks.h"
#include "variant/graph.h"

namespace tilewright {
namespace {

std::shared_ptr<const ExprNode> constant(ValueType type, std::int64_t integer, double real = 0) {
  return std::make_shared<const ExprNode>(
      ExprNode{ExprOp::constant, type, integer, real, {}, {}, 1});
}

}  // namespace

Expr::Expr(int value) : node_(constant(ValueType::integer, value)) {}
Expr::Expr(std::int64_t value) : node_(constant(ValueType::integer, value)) {}
Expr::Expr(bool value) : node_(constant(ValueType::boolean, value ? 1 : 0)) {}
Expr::Expr(double value) : Expr(static_cast<float>(value)) {}
Expr::Expr(float value) : node_(constant(ValueType::real, 0, static_cast<double>(value))) {}

ValueType Expr::type() const {
  require(defined(), "an empty expression has no type");
  return node_->type;
}

namespace expr {
Expr logit() {
  return make_leaf(ExprOp::logit);
}
Expr q_pos() {
  return make_leaf(ExprOp::q_pos);
}
Expr kv_pos() {
  return make_leaf(ExprOp::kv_pos);
}
Expr q_head() {
  return make_leaf(ExprOp::q_head);
}
Expr kv_head() {
  return make_leaf(ExprOp::kv_head);
}
Expr batch() {
  return make_leaf(ExprOp::batch);
}
Expr q_len() {
  return make_leaf(ExprOp::q_len);
}
Expr kv_len() {
  return make_leaf(ExprOp::kv_len);
}
Expr q_index() {
  return make_leaf(ExprOp::q_index);
}
Expr q_begin() {
  return make_leaf(ExprOp::q_begin);
}
Expr value() {
  return make_leaf(ExprOp::value);
}
}  // namespace expr

Expr operator+(const Expr& a, const Expr& b) {
  return make_operator(ExprOp::add, {a, b});
}
Expr operator-(const Expr& a, const Expr& b) {
  return make_operator(ExprOp::sub, {a, b});
}
Expr operator*(const Expr& a, const Expr& b) {
  return make_operator(ExprOp::mul, {a, b});
}
Expr operator/(const Expr& a, const Expr& b) {
  return make_operator(ExprOp::div, {a, b});
}
Expr operator-(const Expr& a) {
  return make_operator(ExprOp::neg, {a});
}
Expr operator<(const Expr& a, const Expr& b) {
  return make_operator(ExprOp::lt, {a, b});
}
Expr operator<=(const Expr& a, const Expr& b) {
  return make_operator(ExprOp::le, {a, b});
}
Expr operator>(const Expr& a, const Expr& b) {
  return make_operator(ExprOp::lt, {b, a});
}
Expr operator>=(const Expr& a, const Expr& b) {
  return make_operator(ExprOp::le, {b, a});
}
Expr operator==(const Expr& a, const Expr& b) {
  return make_operator(ExprOp::eq, {a, b});
}
Expr operator!=(const Expr& a, const Expr& b) {
  return make_operator(ExprOp::ne, {a, b});
}
Expr operator&&(const Expr& a, const Expr& b) {
  return make_operator(ExprOp::logical_and, {a, b});
}
Expr operator||(const Expr& a, const Expr& b) {
  return make_operator(ExprOp::logical_or, {a, b});
}
Expr operator!(const Expr& a) {
  return make_operator(ExprOp::logical_not, {a});
}
Expr floor_div(const Expr& a, const Expr& b) {
  return make_operator(ExprOp::floor_div, {a, b});
}
Expr mod(const Expr& a, const Expr& b) {
  return make_operator(ExprOp::mod, {a, b});
}
Expr shift_right(const Expr& a, const Expr& b) {
  return make_operator(ExprOp::shift_right, {a, b});
}
Expr bit_and(const Expr& a, const Expr& b) {
  return make_operator(ExprOp::bit_and, {a, b});
}
Expr min(const Expr& a, const Expr& b) {
  return make_operator(ExprOp::min, {a, b});
}
Expr max(const Expr& a, const Expr& b) {
  return make_operator(ExprOp::max, {a, b});
}
Expr abs(const Expr& a) {
  return make_operator(ExprOp::abs, {a});
}
Expr exp(const Expr& a) {
  return make_operator(ExprOp::exp, {a});
}
Expr log(const Expr& a) {
  return make_operator(ExprOp::log, {a});
}
Expr tanh(const Expr& a) {
  return make_operator(ExprOp::tanh, {a});
}
Expr sigmoid(const Expr& a) {
  return make_operator(ExprOp::sigmoid, {a});
}
Expr to_real(const Expr& a) {
  return make_operator(ExprOp::to_real, {a});
}
Expr where(const Expr& condition, const Expr& yes, const Expr& no) {
  return make_operator(ExprOp::where, {condition, yes, no});
}

}  // namespace tilewright
