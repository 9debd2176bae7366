// SPDX-License-Identifier: Apache-2.0
// Declarations of a variant's parameters, and the checks of a whole variant.
#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "base/checks.h"
#include "base/rope.h"
#include "variant/bindings.h"
#include "variant/graph.h"

namespace tilewright {
namespace {

constexpr std::size_t kMaxNameLength = 64;

bool is_letter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}
bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

void check_declaration(const std::string& name, int rank) {
  const bool good =
      !name.empty() && name.size() <= kMaxNameLength && is_letter(name[0]) &&
      std::all_of(name.begin(), name.end(), [](char c) { return is_letter(c) || is_digit(c); });
  require(good,
          "a parameter's name is \"{}\": it must be an identifier (letters, digits, _) of at most "
          "{} characters",
          name, kMaxNameLength);
  require(rank >= 0 && rank <= 3, "parameter \"{}\" has rank {}: it must be 0 to 3", name, rank);
}

bool allowed_in_output(ExprOp op) {
  return op != ExprOp::logit && op != ExprOp::kv_pos && op != ExprOp::q_len &&
         op != ExprOp::kv_len && op != ExprOp::q_begin;
}

// Nodes may be made by hand (ExprNode is public), so their form is checked too.
void check_node(const ExprNode& node) {
  if (node.op == ExprOp::param) {
    require(node.param.has_value(), "a param node has no parameter");
    require(node.type == node.param->type(), "a read of parameter \"{}\" is {}: it must be {}",
            node.param->name(), type_name(node.type), type_name(node.param->type()));
    require(static_cast<int>(node.args.size()) == node.param->rank(),
            "parameter \"{}\" is read with {} indices: its rank is {}", node.param->name(),
            node.args.size(), node.param->rank());
    for (const Expr& index : node.args) {
      require(index.type() == ValueType::integer,
              "parameter \"{}\" is read with an index that is {}: indices must be integers",
              node.param->name(), type_name(index.type()));
    }
    return;
  }
  if (is_leaf(node.op)) {
    const bool real = node.op == ExprOp::logit || node.op == ExprOp::value;
    require(node.args.empty() && (node.op == ExprOp::constant ||
                                  node.type == (real ? ValueType::real : ValueType::integer)),
            "a node {} is malformed: it is {} and has {} operands", op_name(node.op),
            type_name(node.type), node.args.size());
    return;
  }
  require(result_type(node.op, node.args) == node.type, "a node {} is {}: its operands make it {}",
          op_name(node.op), type_name(node.type), type_name(result_type(node.op, node.args)));
}

template <typename Allowed>
void check_expression(const char* name, const Expr& expression, ValueType type, Allowed allowed) {
  if (!expression.defined()) return;
  require(expression.type() == type, "the variant's {} is {}: it must be {}", name,
          type_name(expression.type()), type_name(type));
  for (const ExprNode* node : topological_order({&expression})) {
    check_node(*node);
    require(allowed(node->op), "the variant's {} reads {}, which is not known there", name,
            op_name(node->op));
  }
}

}  // namespace

Param Param::real(std::string name, int rank, Bind bind) {
  check_declaration(name, rank);
  Param param;
  param.name_ = std::move(name);
  param.type_ = ValueType::real;
  param.rank_ = rank;
  param.bind_ = bind;
  return param;
}

Param Param::integer(std::string name, int rank, Bind bind) {
  Param param = real(std::move(name), rank, bind);
  param.type_ = ValueType::integer;
  return param;
}

Param Param::with_default(double value) const {
  require(rank_ == 0, "parameter \"{}\" has rank {}: only numbers (rank 0) have a default", name_,
          rank_);
  check_param_number(*this, value);
  Param param = *this;
  param.default_ = value;
  return param;
}

Expr Param::operator()() const {
  return make_param(*this, {});
}
Expr Param::operator()(const Expr& i) const {
  return make_param(*this, {i});
}
Expr Param::operator()(const Expr& i, const Expr& j) const {
  return make_param(*this, {i, j});
}
Expr Param::operator()(const Expr& i, const Expr& j, const Expr& k) const {
  return make_param(*this, {i, j, k});
}

bool operator==(const Param& a, const Param& b) {
  return a.name_ == b.name_ && a.type_ == b.type_ && a.rank_ == b.rank_ && a.bind_ == b.bind_ &&
         a.default_ == b.default_;
}

void check_param_number(const Param& param, double value) {
  if (param.type() == ValueType::real) {
    require(!std::isnan(value), "parameter \"{}\" is NaN: it must be a number", param.name());
    return;
  }
  constexpr double kLow = std::numeric_limits<std::int32_t>::min();
  constexpr double kHigh = std::numeric_limits<std::int32_t>::max();
  require(value >= kLow && value <= kHigh && value == std::floor(value),
          "parameter \"{}\" is {}: it must be a 32-bit integer", param.name(), value);
}

std::vector<Param> Variant::params() const {
  std::vector<Param> params;
  for (const ExprNode* node : topological_order({&logits, &mask, &output})) {
    if (node->op != ExprOp::param) continue;
    require(node->param.has_value(), "a param node has no parameter");
    const auto same_name = [&](const Param& p) { return p.name() == node->param->name(); };
    const auto known = std::find_if(params.begin(), params.end(), same_name);
    if (known == params.end()) {
      params.push_back(*node->param);
    } else {
      require(*known == *node->param,
              "parameter \"{}\" has two declarations that differ (type, rank, binding or default)",
              known->name());
    }
  }
  return params;
}

void Variant::validate() const {
  check_expression("logits", logits, ValueType::real,
                   [](ExprOp op) { return op != ExprOp::value; });
  check_expression("mask", mask, ValueType::boolean,
                   [](ExprOp op) { return op != ExprOp::value && op != ExprOp::logit; });
  check_expression("output", output, ValueType::real, allowed_in_output);
  const std::size_t count = params().size();
  require(count <= static_cast<std::size_t>(Bindings::kMaxParams),
          "the variant has {} parameters: at most {} are possible", count, Bindings::kMaxParams);
  if (rope) check_rope(*rope);
}

bool operator==(const Variant& a, const Variant& b) {
  return a.serialize() == b.serialize();
}

}  // namespace tilewright
