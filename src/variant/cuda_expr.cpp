// SPDX-License-Identifier: Apache-2.0
#include "variant/cuda_expr.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "variant/graph.h"

namespace tilewright {
namespace {

constexpr std::int64_t kInt32Min = std::numeric_limits<std::int32_t>::min();
constexpr std::int64_t kInt32Max = std::numeric_limits<std::int32_t>::max();

// Call as `name(a, b)`.
const char* real_function(ExprOp op) {
  switch (op) {
    case ExprOp::min:
      return "least_of";
    case ExprOp::max:
      return "greatest_of";
    case ExprOp::abs:
      return "abs_of";
    case ExprOp::exp:
      return "exp_of";
    case ExprOp::log:
      return "log_of";
    case ExprOp::tanh:
      return "tanh_of";
    default:
      return "sigmoid_of";
  }
}

bool is_comparison(ExprOp op) {
  return op == ExprOp::lt || op == ExprOp::le || op == ExprOp::eq || op == ExprOp::ne;
}

}  // namespace

std::string cuda_literal(float value) {
  if (std::isnan(value)) return "float_of(0x7FC00000U)";
  if (std::isinf(value)) return value > 0 ? "kInfinity" : "(-kInfinity)";
  return value < 0 || std::signbit(value) ? fmt::format("(-{:a}F)", -value)
                                          : fmt::format("{:a}F", value);
}

std::string cuda_literal(std::int64_t value) {
  if (value == std::numeric_limits<std::int64_t>::min()) return "(-9223372036854775807LL - 1)";
  if (value == kInt32Min) return "(-2147483647 - 1)";
  const char* suffix = value >= kInt32Min && value <= kInt32Max ? "" : "LL";
  return value < 0 ? fmt::format("(-{}{})", -value, suffix) : fmt::format("{}{}", value, suffix);
}

std::string cuda_literal(Int128 value) {
  if (value >= std::numeric_limits<std::int64_t>::min() &&
      value <= std::numeric_limits<std::int64_t>::max()) {
    return fmt::format("plan::Wide{{{}}}", cuda_literal(static_cast<std::int64_t>(value)));
  }
  return fmt::format("plan::Wide({}, {}ULL)", cuda_literal(static_cast<std::int64_t>(value >> 64)),
                     static_cast<std::uint64_t>(value));
}

CudaStatements::CudaStatements(const Expr& root, const std::vector<Param>& params,
                               std::string prefix, std::string indent,
                               const std::vector<const ExprNode*>& exact)
    : params_(params), prefix_(std::move(prefix)), indent_(std::move(indent)) {
  const std::vector<const ExprNode*> order = topological_order({&root});
  ranges_ = integer_ranges(order, {kInt32Min, kInt32Max, false});
  for (const ExprNode* node : order) {
    const bool input =
        node->op == ExprOp::logit || node->op == ExprOp::value || node->op == ExprOp::kv_pos;
    const bool varying =
        input || std::any_of(node->args.begin(), node->args.end(),
                             [&](const Expr& arg) { return varying_.contains(&arg.node()); });
    if (varying) varying_.insert(node);
  }
  find_saturable(order);
  for (const ExprNode* node : exact) saturable_.erase(node);
}

bool CudaStatements::is_narrow(const ExprNode& node) const {
  const IntegerRange& range = ranges_.at(&node);
  return range.fits_int32() && !range.wraps;
}

// Whether a user computes the same from the nearest 32-bit integer as from the exact operand.
bool CudaStatements::tolerates(const ExprNode& user, std::size_t arg) const {
  switch (user.op) {
    case ExprOp::lt:
    case ExprOp::le:
    case ExprOp::eq:
    case ExprOp::ne: {
      const IntegerRange& other = ranges_.at(&user.args[1 - arg].node());
      return !other.wraps && other.low > kInt32Min && other.high < kInt32Max;
    }
    case ExprOp::min:
    case ExprOp::max:
    case ExprOp::where:
      return is_narrow(user) || saturable_.contains(&user);
    case ExprOp::param:
      return true;  // both are outside of every tensor
    default:
      return false;
  }
}

void CudaStatements::find_saturable(const std::vector<const ExprNode*>& order) {
  std::unordered_set<const ExprNode*> exact;  // some user needs their value
  for (auto it = order.rbegin(); it != order.rend(); ++it) {
    const ExprNode& node = **it;
    if (node.type == ValueType::integer && !is_narrow(node) && !ranges_.at(&node).wraps &&
        !exact.contains(&node)) {
      saturable_.insert(&node);
    }
    if (is_comparison(node.op) && node.args[0].type() == ValueType::integer) {
      if (const auto bound = key_bound(node)) {
        for (const auto& [scale, term] : bound->terms) exact.insert(term);
        continue;
      }
    }
    for (std::size_t i = 0; i < node.args.size(); ++i) {
      const ExprNode& arg = node.args[i].node();
      if (arg.type == ValueType::integer && !tolerates(node, i)) exact.insert(&arg);
    }
  }
}

const char* CudaStatements::type_text(Type type) {
  switch (type) {
    case Type::real:
      return "float";
    case Type::boolean:
      return "bool";
    case Type::i32:
      return "i32";
    default:
      return "i64";
  }
}

std::string CudaStatements::wide(const Value& value) {
  return value.type == Type::i64 ? value.text : fmt::format("i64{{{}}}", value.text);
}

std::string CudaStatements::low(const Value& value) {
  return value.type == Type::i32 ? value.text : fmt::format("low_bits({})", value.text);
}

CudaStatements::Value CudaStatements::named(const Value& value, bool varying) {
  const auto [known, is_new] = known_.try_emplace(value.text);
  if (is_new) {
    known->second = {fmt::format("{}{}", prefix_, known_.size()), value.type};
    (varying ? lines_ : row_lines_) += fmt::format(
        "{}const {} {} = {};\n", indent_, type_text(value.type), known->second.text, value.text);
    if (!varying) row_variables_.push_back({type_text(value.type), known->second.text});
  }
  return known->second;
}

CudaStatements::Value CudaStatements::emit(const ExprNode& node) {
  if (const auto known = values_.find(&node); known != values_.end()) return known->second;
  const bool varying = varying_.contains(&node);
  Value value;
  if (node.op == ExprOp::param) {
    value = named(parameter(node), varying);
  } else if (node.args.empty()) {
    value = leaf(node);
  } else if (node.type == ValueType::real) {
    value = named(real(node), varying);
  } else if (node.type == ValueType::integer) {
    value = named(integer(node), varying);
  } else {
    value = named(boolean(node), varying);
  }
  values_.emplace(&node, value);
  return value;
}

CudaStatements::Value CudaStatements::leaf(const ExprNode& node) {
  switch (node.op) {
    case ExprOp::constant:
      if (node.type == ValueType::real) {
        return {cuda_literal(static_cast<float>(node.real)), Type::real};
      }
      if (node.type == ValueType::boolean) {
        return {node.integer != 0 ? "true" : "false", Type::boolean};
      }
      return {cuda_literal(node.integer), is_narrow(node) ? Type::i32 : Type::i64};
    case ExprOp::logit:
    case ExprOp::value:
      return {op_name(node.op), Type::real};
    case ExprOp::kv_pos:
      return {"kv_pos", Type::i32};
    default:
      return named_in_row(fmt::format("row.{}", op_name(node.op)), Type::i32);
  }
}

CudaStatements::Value CudaStatements::parameter(const ExprNode& node) {
  const auto is_it = [&](const Param& p) { return p.name() == node.param->name(); };
  const auto index = std::find_if(params_.begin(), params_.end(), is_it) - params_.begin();
  const bool is_real = node.type == ValueType::real;
  std::string text = fmt::format("{}(params[{}]", is_real ? "real_param" : "integer_param", index);
  for (const Expr& arg : node.args) text += ", " + emit(arg.node()).text;
  return {text + ")", is_real ? Type::real : Type::i32};
}

CudaStatements::Value CudaStatements::to_real(const ExprNode& node) {
  const ExprNode& arg = node.args[0].node();
  if (arg.op == ExprOp::sub && !is_narrow(arg) && !values_.contains(&arg)) {
    const Value a = emit(arg.args[0].node());
    const Value b = emit(arg.args[1].node());
    if (a.type == Type::i32 && b.type == Type::i32) {
      return {fmt::format("real_difference({}, {})", a.text, b.text), Type::real};
    }
  }
  const Value value = emit(arg);
  if (value.type == Type::boolean) {
    return {fmt::format("{} ? 1.0F : 0.0F", value.text), Type::real};
  }
  return {fmt::format("static_cast<float>({})", value.text), Type::real};
}

CudaStatements::Value CudaStatements::real(const ExprNode& node) {
  if (node.op == ExprOp::to_real) return to_real(node);
  std::vector<std::string> args;
  for (const Expr& arg : node.args) args.push_back(emit(arg.node()).text);
  const auto binary = [&](const char* sign) {
    return Value{fmt::format("{} {} {}", args[0], sign, args[1]), Type::real};
  };
  switch (node.op) {
    case ExprOp::add:
      return binary("+");
    case ExprOp::sub:
      return binary("-");
    case ExprOp::mul:
      return binary("*");
    case ExprOp::div: {
      // One reciprocal serves all keys.
      if (!varying_.contains(&node.args[1].node()) && varying_.contains(&node.args[0].node())) {
        const Value by = named_in_row(fmt::format("reciprocal_fast({})", args[1]), Type::real);
        return {fmt::format("{} * {}", args[0], by.text), Type::real};
      }
      return {fmt::format("divide_fast({}, {})", args[0], args[1]), Type::real};
    }
    case ExprOp::neg:
      return {fmt::format("-{}", args[0]), Type::real};
    case ExprOp::where:
      return {fmt::format("{} ? {} : {}", args[0], args[1], args[2]), Type::real};
    default:
      return {fmt::format("{}({})", real_function(node.op), fmt::join(args, ", ")), Type::real};
  }
}

CudaStatements::Value CudaStatements::from_wide(const ExprNode& node,
                                                const std::string& text) const {
  if (is_narrow(node)) return {fmt::format("low_bits({})", text), Type::i32};
  if (saturable_.contains(&node)) return {fmt::format("saturated({})", text), Type::i32};
  return {text, Type::i64};
}

// min, max, where.
CudaStatements::Value CudaStatements::chosen_integer(const ExprNode& node) {
  const std::size_t first = node.op == ExprOp::where ? 1 : 0;
  const Value a = emit(node.args[first].node());
  const Value b = emit(node.args[first + 1].node());
  const std::string condition =
      node.op == ExprOp::where ? emit(node.args[0].node()).text : std::string();
  const auto choice = [&](const std::string& x, const std::string& y) {
    if (node.op == ExprOp::where) return fmt::format("{} ? {} : {}", condition, x, y);
    return fmt::format("{}({}, {})", real_function(node.op), x, y);
  };
  if (a.type == Type::i32 && b.type == Type::i32) return {choice(a.text, b.text), Type::i32};
  return from_wide(node, choice(wide(a), wide(b)));
}

CudaStatements::Value CudaStatements::divided(const ExprNode& node, const Value& a,
                                              const Value& b) {
  const bool quotient = node.op == ExprOp::floor_div;
  const ExprNode& divisor = node.args[1].node();
  const bool plain = ranges_.at(&node.args[0].node()).low >= 0 &&
                     !ranges_.at(&node.args[0].node()).wraps && divisor.op == ExprOp::constant &&
                     divisor.integer > 0;
  const auto text = [&](const std::string& x, const std::string& y) {
    if (plain) return fmt::format("{} {} {}", x, quotient ? "/" : "%", y);
    return fmt::format("{}({}, {})", quotient ? "floor_div" : "floor_mod", x, y);
  };
  if (is_narrow(node) && a.type == Type::i32 && b.type == Type::i32) {
    return {text(a.text, b.text), Type::i32};
  }
  return from_wide(node, text(wide(a), wide(b)));
}

CudaStatements::Value CudaStatements::integer(const ExprNode& node) {
  const bool narrow = is_narrow(node);
  if (node.op == ExprOp::min || node.op == ExprOp::max || node.op == ExprOp::where) {
    return chosen_integer(node);
  }
  const Value a = emit(node.args[0].node());
  const Value b = node.args.size() > 1 ? emit(node.args[1].node()) : Value{"0", Type::i32};
  const bool both = a.type == Type::i32 && b.type == Type::i32;
  const auto arithmetic = [&](const char* sign, const char* name) -> Value {
    if (narrow && both) return {fmt::format("{} {} {}", a.text, sign, b.text), Type::i32};
    if (narrow) return {fmt::format("low_{}({}, {})", name, a.text, b.text), Type::i32};
    if (ranges_.at(&node).wraps) {
      return {fmt::format("wrap_{}({}, {})", name, a.text, b.text), Type::i64};
    }
    return from_wide(node, fmt::format("{} {} {}", wide(a), sign, wide(b)));
  };
  switch (node.op) {
    case ExprOp::add:
      return arithmetic("+", "add");
    case ExprOp::sub:
      return arithmetic("-", "sub");
    case ExprOp::mul:
      return arithmetic("*", "mul");
    case ExprOp::neg:
      if (narrow && both) return {fmt::format("-{}", a.text), Type::i32};
      return from_wide(node, fmt::format("wrap_sub(0, {})", a.text));
    case ExprOp::abs:
      if (narrow && both) return {fmt::format("{0} < 0 ? -{0} : {0}", a.text), Type::i32};
      return from_wide(node, fmt::format("wrap_abs({})", a.text));
    case ExprOp::shift_right:
      if (a.type == Type::i32) {
        return {fmt::format("shift_right({}, {})", a.text, low(b)), Type::i32};
      }
      return from_wide(node, fmt::format("shift_right({}, {})", a.text, low(b)));
    case ExprOp::bit_and:
      if (narrow) return {fmt::format("{} & {}", low(a), low(b)), Type::i32};
      return from_wide(node, fmt::format("{} & {}", wide(a), wide(b)));
    default:
      return divided(node, a, b);
  }
}

CudaStatements::Value CudaStatements::comparison(const ExprNode& node, const char* sign) {
  if (node.args[0].type() == ValueType::integer) {
    if (const auto bound = key_bound(node)) return {compared_key(node.op, *bound), Type::boolean};
  }
  const Value a = emit(node.args[0].node());
  const Value b = emit(node.args[1].node());
  const bool same = a.type == b.type;
  return {fmt::format("{} {} {}", same ? a.text : wide(a), sign, same ? b.text : wide(b)),
          Type::boolean};
}

CudaStatements::Value CudaStatements::boolean(const ExprNode& node) {
  switch (node.op) {
    case ExprOp::lt:
      return comparison(node, "<");
    case ExprOp::le:
      return comparison(node, "<=");
    case ExprOp::eq:
      return comparison(node, "==");
    case ExprOp::ne:
      return comparison(node, "!=");
    default:
      break;
  }
  std::vector<std::string> args;
  for (const Expr& arg : node.args) args.push_back(emit(arg.node()).text);
  switch (node.op) {
    case ExprOp::logical_and:
      return {fmt::format("{} && {}", args[0], args[1]), Type::boolean};
    case ExprOp::logical_or:
      return {fmt::format("{} || {}", args[0], args[1]), Type::boolean};
    case ExprOp::logical_not:
      return {fmt::format("!{}", args[0]), Type::boolean};
    default:
      return {fmt::format("{} ? {} : {}", args[0], args[1], args[2]), Type::boolean};
  }
}

}  // namespace tilewright
