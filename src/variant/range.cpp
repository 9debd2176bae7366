// SPDX-License-Identifier: Apache-2.0
#include "variant/range.h"

#include <algorithm>
#include <initializer_list>
#include <utility>

#include "variant/integer.h"

namespace tilewright {
namespace {

constexpr std::int64_t kInt64Min = std::numeric_limits<std::int64_t>::min();
constexpr std::int64_t kInt64Max = std::numeric_limits<std::int64_t>::max();
constexpr std::int64_t kInt32Min = std::numeric_limits<std::int32_t>::min();
constexpr std::int64_t kInt32Max = std::numeric_limits<std::int32_t>::max();

IntegerRange clipped(Int128 low, Int128 high) {
  if (low < kInt64Min || high > kInt64Max) return {kInt64Min, kInt64Max, true};
  return {static_cast<std::int64_t>(low), static_cast<std::int64_t>(high), false};
}

IntegerRange hull(std::initializer_list<Int128> values) {
  return clipped(std::min(values), std::max(values));
}

IntegerRange product(const IntegerRange& a, const IntegerRange& b) {
  return hull({Int128{a.low} * b.low, Int128{a.low} * b.high, Int128{a.high} * b.low,
               Int128{a.high} * b.high});
}

IntegerRange quotient(const IntegerRange& a, const IntegerRange& b) {
  if (b.low <= 0 && b.high >= 0) {
    // Any divisor: the magnitude does not grow; rounding down reaches -1 from below 0.
    const Int128 most = std::max({Int128{1}, -Int128{a.low}, Int128{a.high}});
    return clipped(-most, most);
  }
  return hull({floor_quotient<Int128>(a.low, b.low), floor_quotient<Int128>(a.low, b.high),
               floor_quotient<Int128>(a.high, b.low), floor_quotient<Int128>(a.high, b.high)});
}

IntegerRange absolute(const IntegerRange& a) {
  const Int128 most = std::max(-Int128{a.low}, Int128{a.high});
  const Int128 least = a.low <= 0 && a.high >= 0
                           ? Int128{0}
                           : std::min(a.low < 0 ? -Int128{a.low} : Int128{a.low},
                                      a.high < 0 ? -Int128{a.high} : Int128{a.high});
  return clipped(least, most);
}

IntegerRange shifted(const IntegerRange& a, const IntegerRange& count) {
  const bool exact = count.low >= 0 && count.high <= 63;
  const std::int64_t least = exact ? count.low : 0;
  const std::int64_t most = exact ? count.high : 63;
  return hull({Int128{a.low >> least}, Int128{a.low >> most}, Int128{a.high >> least},
               Int128{a.high >> most}});
}

// a & b is at most either of them that is not negative, and clears no bit above both.
IntegerRange common_bits(const IntegerRange& a, const IntegerRange& b) {
  if (a.low >= 0 && b.low >= 0) return {0, std::min(a.high, b.high), false};
  if (a.low >= 0) return {0, a.high, false};
  if (b.low >= 0) return {0, b.high, false};
  Int128 low = -1;
  while (low > std::min(a.low, b.low)) low *= 2;
  return clipped(low, std::max(a.high, b.high));
}

class Analysis {
 public:
  Analysis(const IntegerRange& position, const std::unordered_set<const ExprNode*>& assumed_int32)
      : position_(position), assumed_int32_(assumed_int32) {}

  void add(const ExprNode& node) {
    if (node.type != ValueType::integer) return;
    IntegerRange range = range_of(node);
    for (const Expr& arg : node.args) {
      if (arg.type() == ValueType::integer) range.wraps |= ranges_.at(&arg.node()).wraps;
    }
    if (assumed_int32_.contains(&node) && range.low <= kInt32Max && range.high >= kInt32Min) {
      range = {std::max(range.low, kInt32Min), std::min(range.high, kInt32Max), false};
    }
    ranges_.emplace(&node, range);
  }

  IntegerRanges take() { return std::move(ranges_); }

 private:
  const IntegerRange& arg(const ExprNode& node, std::size_t i) const {
    return ranges_.at(&node.args[i].node());
  }

  IntegerRange range_of(const ExprNode& node) const {
    switch (node.op) {
      case ExprOp::constant:
        return {node.integer, node.integer, false};
      case ExprOp::param:
        return {kInt32Min, kInt32Max, false};
      case ExprOp::q_pos:
      case ExprOp::kv_pos:
        return position_;
      case ExprOp::q_head:
      case ExprOp::kv_head:
      case ExprOp::batch:
      case ExprOp::q_len:
      case ExprOp::kv_len:
      case ExprOp::q_index:
      case ExprOp::q_begin:
        return {0, kInt32Max, false};
      case ExprOp::add:
        return clipped(Int128{arg(node, 0).low} + arg(node, 1).low,
                       Int128{arg(node, 0).high} + arg(node, 1).high);
      case ExprOp::sub:
        return clipped(Int128{arg(node, 0).low} - arg(node, 1).high,
                       Int128{arg(node, 0).high} - arg(node, 1).low);
      case ExprOp::mul:
        return product(arg(node, 0), arg(node, 1));
      case ExprOp::floor_div:
        return quotient(arg(node, 0), arg(node, 1));
      case ExprOp::mod: {
        const IntegerRange& b = arg(node, 1);
        return clipped(b.low < 0 ? Int128{b.low} + 1 : Int128{0},
                       b.high > 0 ? Int128{b.high} - 1 : Int128{0});
      }
      case ExprOp::shift_right:
        return shifted(arg(node, 0), arg(node, 1));
      case ExprOp::bit_and:
        return common_bits(arg(node, 0), arg(node, 1));
      case ExprOp::neg:
        return clipped(-Int128{arg(node, 0).high}, -Int128{arg(node, 0).low});
      case ExprOp::abs:
        return absolute(arg(node, 0));
      case ExprOp::min:
        return {std::min(arg(node, 0).low, arg(node, 1).low),
                std::min(arg(node, 0).high, arg(node, 1).high), false};
      case ExprOp::max:
        return {std::max(arg(node, 0).low, arg(node, 1).low),
                std::max(arg(node, 0).high, arg(node, 1).high), false};
      case ExprOp::where:
        return {std::min(arg(node, 1).low, arg(node, 2).low),
                std::max(arg(node, 1).high, arg(node, 2).high), false};
      default:
        return {kInt64Min, kInt64Max, true};
    }
  }

  IntegerRange position_;
  const std::unordered_set<const ExprNode*>& assumed_int32_;
  IntegerRanges ranges_;
};

}  // namespace

IntegerRanges integer_ranges(const std::vector<const ExprNode*>& order,
                             const IntegerRange& position,
                             const std::unordered_set<const ExprNode*>& assumed_int32) {
  Analysis analysis(position, assumed_int32);
  for (const ExprNode* node : order) analysis.add(*node);
  return analysis.take();
}

}  // namespace tilewright
