// SPDX-License-Identifier: Apache-2.0
// Comparisons of integers that are linear in the key: its position against a bound that is known of
// the row.
#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "variant/cuda_expr.h"

namespace tilewright {
namespace {

constexpr std::int64_t kInt32Min = std::numeric_limits<std::int32_t>::min();
constexpr std::int64_t kInt32Max = std::numeric_limits<std::int32_t>::max();
constexpr Int128 kMaxSum = Int128{1} << 61;
constexpr std::int64_t kMaxScale = std::int64_t{1} << 40;

Int128 magnitude(const IntegerRange& range) {
  return std::max(-Int128{range.low}, Int128{range.high});
}

}  // namespace

// Adds scale * node to the bound, its part in the key to `key`; false when it is not linear.
bool CudaStatements::add_terms(const ExprNode& node, Int128 scale, KeyBound& bound,
                               Int128& key) const {
  if (scale > kMaxScale || scale < -kMaxScale) return false;
  const auto arg = [&](std::size_t i) -> const ExprNode& { return node.args[i].node(); };
  if (node.op == ExprOp::constant) {
    bound.constant += scale * node.integer;
    return true;
  }
  if (!varying_.contains(&node)) {
    bound.terms.emplace_back(static_cast<std::int64_t>(scale), &node);
    return true;
  }
  switch (node.op) {
    case ExprOp::kv_pos:
      if (key != 0) return false;
      key = scale;
      return true;
    case ExprOp::add:
      return add_terms(arg(0), scale, bound, key) && add_terms(arg(1), scale, bound, key);
    case ExprOp::sub:
      return add_terms(arg(0), scale, bound, key) && add_terms(arg(1), -scale, bound, key);
    case ExprOp::neg:
      return add_terms(arg(0), -scale, bound, key);
    case ExprOp::mul:
      if (arg(0).op == ExprOp::constant) {
        return add_terms(arg(1), scale * arg(0).integer, bound, key);
      }
      return arg(1).op == ExprOp::constant && add_terms(arg(0), scale * arg(1).integer, bound, key);
    case ExprOp::floor_div: {
      KeyBound inner;
      Int128 inner_key = 0;
      if (key != 0 || arg(1).op != ExprOp::constant || arg(1).integer <= 0 ||
          arg(1).integer > kInt32Max || !add_terms(arg(0), 1, inner, inner_key) || inner_key != 1 ||
          inner.size != 1 || !inner.terms.empty() || inner.constant > kMaxScale ||
          inner.constant < -kMaxScale) {
        return false;
      }
      bound.size = arg(1).integer;
      bound.shift = static_cast<std::int64_t>(inner.constant);
      key = scale;
      return true;
    }
    default:
      return false;
  }
}

std::optional<CudaStatements::KeyBound> CudaStatements::key_bound(
    const ExprNode& comparison) const {
  const ExprNode& a = comparison.args[0].node();
  const ExprNode& b = comparison.args[1].node();
  if (ranges_.at(&a).wraps || ranges_.at(&b).wraps) return std::nullopt;
  KeyBound bound;
  Int128 key = 0;
  if (!add_terms(a, 1, bound, key) || !add_terms(b, -1, bound, key)) return std::nullopt;
  if (key != 1 && key != -1) return std::nullopt;
  // key * term + rest: the term is compared with -rest / key.
  bound.key_is_less = key == 1;
  if (bound.key_is_less) {
    bound.constant = -bound.constant;
    for (auto& [scale, node] : bound.terms) scale = -scale;
  }
  Int128 low = bound.constant;
  Int128 high = bound.constant;
  bound.most = std::max(bound.constant, -bound.constant);
  for (const auto& [scale, node] : bound.terms) {
    const IntegerRange& range = ranges_.at(node);
    low += scale * Int128{scale > 0 ? range.low : range.high};
    high += scale * Int128{scale > 0 ? range.high : range.low};
    bound.most += magnitude(range) * (scale > 0 ? scale : -scale);
  }
  if ((bound.most + 1) * bound.size + kMaxScale > kMaxSum) return std::nullopt;
  bound.narrow = low >= kInt32Min && high <= kInt32Max;
  return bound;
}

// In 64 bits; it cannot overflow.
std::string CudaStatements::sum(const KeyBound& bound) {
  std::string text;
  for (const auto& [scale, node] : bound.terms) {
    const std::string term = wide(emit(*node));
    const std::int64_t factor = scale < 0 ? -scale : scale;
    const char* sign = text.empty() ? (scale < 0 ? "-" : "") : (scale < 0 ? " - " : " + ");
    text += factor == 1 ? fmt::format("{}{}", sign, term)
                        : fmt::format("{}{} * {}", sign, term, factor);
  }
  const auto constant = static_cast<std::int64_t>(bound.constant);
  if (text.empty()) return fmt::format("i64{{{}}}", cuda_literal(constant));
  if (constant == 0) return text;
  return fmt::format("{} {} {}", text, constant < 0 ? "-" : "+",
                     cuda_literal(constant < 0 ? -constant : constant));
}

// The key's position against a bound that is made once a row: one comparison of 32 bits a key.
std::string CudaStatements::compared_key(ExprOp op, const KeyBound& bound) {
  const bool is_position = bound.size == 1 && bound.shift == 0;
  const bool equal = op == ExprOp::eq || op == ExprOp::ne;
  if (is_position && bound.narrow) {
    const bool plain = bound.terms.size() == 1 && bound.terms[0].first == 1 && bound.constant == 0;
    Value limit = plain ? emit(*bound.terms[0].second) : Value{};
    if (bound.terms.empty()) {
      limit = {cuda_literal(static_cast<std::int64_t>(bound.constant)), Type::i32};
    } else if (!plain || limit.type != Type::i32) {
      limit = named_in_row(fmt::format("low_bits({})", sum(bound)), Type::i32);
    }
    const char* sign = op == ExprOp::eq                        ? "=="
                       : op == ExprOp::ne                      ? "!="
                       : bound.key_is_less && op == ExprOp::lt ? "<"
                       : bound.key_is_less                     ? "<="
                       : op == ExprOp::lt                      ? ">"
                                                               : ">=";
    return fmt::format("kv_pos {} {}", sign, limit.text);
  }
  const std::string value = sum(bound);
  if (is_position && equal) {
    const Value limit = named_in_row(fmt::format("equal_bound({})", value), Type::i32);
    return fmt::format("kv_pos {} {}", op == ExprOp::eq ? "==" : "!=", limit.text);
  }
  // The last positions whose term is at most the bound, and less than it.
  const auto last = [&](bool at_most) {
    const std::int64_t offset = (at_most ? bound.size : 0) - 1 - bound.shift;
    std::string text = bound.size == 1 ? value : fmt::format("({}) * {}", value, bound.size);
    if (offset != 0) text += fmt::format(" + {}", cuda_literal(offset));
    return named_in_row(fmt::format("saturated({})", text), Type::i32).text;
  };
  if (op == ExprOp::eq) return fmt::format("kv_pos > {} && kv_pos <= {}", last(false), last(true));
  if (op == ExprOp::ne) return fmt::format("kv_pos <= {} || kv_pos > {}", last(false), last(true));
  const bool at_most = bound.key_is_less == (op == ExprOp::le);
  return fmt::format("kv_pos {} {}", bound.key_is_less ? "<=" : ">", last(at_most));
}

}  // namespace tilewright
