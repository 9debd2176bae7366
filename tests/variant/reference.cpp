// SPDX-License-Identifier: Apache-2.0
#include "reference.h"

#include <algorithm>
#include <array>
#include <limits>
#include <span>

namespace tilewright::test {
namespace {

// Generous against rounding and the few ulp of vector exp, log and tanh.
constexpr double kStep = 1e-6;
constexpr double kTiny = 1e-37;

__extension__ using Wide = __int128;

std::int64_t wrapped(Wide value) {
  return static_cast<std::int64_t>(static_cast<std::uint64_t>(value));
}

Wide floored(Wide a, Wide b) {
  Wide quotient = a / b;
  while (quotient * b > a && b > 0) --quotient;
  while (quotient * b < a && b < 0) --quotient;
  return quotient;
}

RefValue integer_value(std::int64_t value) {
  RefValue result;
  result.integer = value;
  return result;
}

}  // namespace

RefValue Reference::leaf(const ExprNode& node) const {
  RefValue result;
  switch (node.op) {
    case ExprOp::constant:
      result.integer = node.integer;
      result.real = node.real;
      break;
    case ExprOp::logit:
    case ExprOp::value:
      result.real = in_.logit;
      break;
    case ExprOp::q_pos:
      result.integer = in_.row.q_pos;
      break;
    case ExprOp::kv_pos:
      result.integer = in_.kv_pos;
      break;
    case ExprOp::q_head:
      result.integer = in_.row.q_head;
      break;
    case ExprOp::kv_head:
      result.integer = in_.row.kv_head;
      break;
    case ExprOp::batch:
      result.integer = in_.row.batch;
      break;
    case ExprOp::q_len:
      result.integer = in_.row.q_len;
      break;
    case ExprOp::q_index:
      result.integer = in_.row.q_index;
      break;
    case ExprOp::q_begin:
      result.integer = in_.row.q_begin;
      break;
    default:
      result.integer = in_.row.kv_len;
      break;
  }
  return result;
}

RefValue Reference::integer_operator(ExprOp op, const RefValue& a, const RefValue& b) const {
  const Wide x = a.integer;
  const Wide y = b.integer;
  RefValue result;
  switch (op) {
    case ExprOp::add:
      return integer_value(wrapped(x + y));
    case ExprOp::sub:
      return integer_value(wrapped(x - y));
    case ExprOp::mul:
      return integer_value(wrapped(x * y));
    case ExprOp::floor_div:
      return integer_value(y == 0 ? 0 : wrapped(floored(x, y)));
    case ExprOp::mod:
      return integer_value(y == 0 ? 0 : wrapped(x - floored(x, y) * y));
    case ExprOp::shift_right: {
      Wide divisor = 1;
      for (int bit = 0; bit < (b.integer & 63); ++bit) divisor *= 2;
      return integer_value(wrapped(floored(x, divisor)));
    }
    case ExprOp::bit_and:
      return integer_value(a.integer & b.integer);
    case ExprOp::neg:
      return integer_value(wrapped(-x));
    case ExprOp::abs:
      return integer_value(wrapped(x < 0 ? -x : x));
    case ExprOp::min:
      return integer_value(std::min(a.integer, b.integer));
    case ExprOp::max:
      return integer_value(std::max(a.integer, b.integer));
    case ExprOp::to_real:
      result.real = static_cast<double>(a.integer);
      result.error = std::fabs(result.real) * kStep;
      return result;
    case ExprOp::lt:
      return integer_value(a.integer < b.integer);
    case ExprOp::le:
      return integer_value(a.integer <= b.integer);
    case ExprOp::eq:
      return integer_value(a.integer == b.integer);
    case ExprOp::ne:
      return integer_value(a.integer != b.integer);
    case ExprOp::logical_and:
      return integer_value(a.integer & b.integer);
    case ExprOp::logical_or:
      return integer_value(a.integer | b.integer);
    default:
      return integer_value(1 - a.integer);
  }
}

RefValue Reference::real_operator(ExprOp op, const RefValue& a, const RefValue& b) const {
  RefValue result;
  double error = 0;  // what the operands' errors become
  const double x = a.real;
  const double y = b.real;
  switch (op) {
    case ExprOp::add:
    case ExprOp::sub:
      result.real = op == ExprOp::add ? x + y : x - y;
      error = a.error + b.error;
      break;
    case ExprOp::mul:
      result.real = x * y;
      error = std::fabs(x) * b.error + std::fabs(y) * a.error + a.error * b.error;
      break;
    case ExprOp::div: {
      const double least = std::fabs(y) - b.error;
      if (least <= 0) return {.unsure = true};
      result.real = x / y;
      error = (a.error + std::fabs(result.real) * b.error) / least;
      break;
    }
    case ExprOp::neg:
      result.real = -x;
      error = a.error;
      break;
    case ExprOp::abs:
      result.real = std::fabs(x);
      error = a.error;
      break;
    case ExprOp::min:
    case ExprOp::max:
      result.real = op == ExprOp::min ? std::min(x, y) : std::max(x, y);
      error = std::max(a.error, b.error);
      break;
    case ExprOp::exp:
      result.real = std::exp(x);
      error = result.real * std::expm1(a.error);
      break;
    case ExprOp::log:
      if (x - a.error <= 0) return {.unsure = true};
      result.real = std::log(x);
      error = a.error / (x - a.error) + in_.function_error;
      break;
    case ExprOp::tanh:
      result.real = std::tanh(x);
      error = a.error + in_.function_error;
      break;
    case ExprOp::sigmoid:
      result.real = 1 / (1 + std::exp(-x));
      error = a.error;
      break;
    default: {
      const bool exact = a.error == 0 && b.error == 0;
      if (!exact && std::fabs(x - y) <= a.error + b.error) return {.unsure = true};
      const bool truth = op == ExprOp::lt   ? x < y
                         : op == ExprOp::le ? x <= y
                         : op == ExprOp::eq ? x == y
                                            : x != y;
      return integer_value(truth);
    }
  }
  const bool exact =
      op == ExprOp::neg || op == ExprOp::abs || op == ExprOp::min || op == ExprOp::max;
  result.error = exact ? error : error + std::fabs(result.real) * kStep + kTiny;
  // Overflow of f32 is not modelled.
  result.unsure = !(std::fabs(result.real) + result.error < 1e37);
  return result;
}

RefValue Reference::eval(const Expr& e) {
  const ExprNode& node = e.node();
  for (const auto& [known, value] : known_) {
    if (known == &node) return value;
  }
  std::array<RefValue, 3> values;
  for (std::size_t i = 0; i < node.args.size(); ++i) values[i] = eval(node.args[i]);
  const std::span<const RefValue> args(values.data(), node.args.size());
  RefValue result;
  bool unsure = std::any_of(args.begin(), args.end(), [](const RefValue& v) { return v.unsure; });
  if (node.op == ExprOp::param) {
    const BoundParam& param = in_.params->at(node.param->name());
    std::int64_t offset = 0;
    bool inside = true;
    for (std::size_t d = 0; d < args.size(); ++d) {
      inside = inside && args[d].integer >= 0 && args[d].integer < param.shape[d];
      offset += inside ? args[d].integer * param.strides[d] : 0;
    }
    if (args.empty()) {
      result.integer = static_cast<std::int64_t>(param.scalar);
      result.real = static_cast<float>(param.scalar);
    } else if (inside && node.type == ValueType::real) {
      result.real = static_cast<const float*>(param.data)[offset];
    } else if (inside) {
      result.integer = static_cast<const std::int32_t*>(param.data)[offset];
    }
  } else if (args.empty()) {
    result = leaf(node);
  } else if (node.op == ExprOp::where) {
    result = args[0].integer != 0 ? args[1] : args[2];
    unsure = args[0].unsure || result.unsure;
  } else if (node.args[0].type() == ValueType::real) {
    result = real_operator(node.op, args[0], args.back());
    unsure = unsure || result.unsure;
  } else {
    result = integer_operator(node.op, args[0], args.back());
  }
  result.unsure = unsure;
  known_.emplace_back(&node, result);
  return result;
}

std::vector<Param> RandomExpressions::params() {
  return {Param::real("r0"),    Param::real("slope", 1), Param::real("bias", 2),
          Param::integer("i0"), Param::integer("i1", 1), Param::integer("table", 3)};
}

Expr RandomExpressions::integer_leaf() {
  static const std::vector<Param> kParams = params();
  constexpr std::int64_t kMin = std::numeric_limits<std::int64_t>::min();
  constexpr std::int64_t kMax = std::numeric_limits<std::int64_t>::max();
  static constexpr std::int64_t kCorners[] = {kMin,
                                              kMin + 1,
                                              kMax,
                                              kMax - 1,
                                              std::int64_t{1} << 31,
                                              -(std::int64_t{1} << 31),
                                              (std::int64_t{1} << 31) - 1,
                                              (std::int64_t{1} << 40) + 3,
                                              std::int64_t{1} << 62,
                                              3037000500};
  switch (uniform(rng_, 0, 11)) {
    case 0:
    case 1:
      return expr::kv_pos();
    case 2:
    case 3:
      return expr::q_pos();
    case 4:
      return expr::q_head();
    case 5:
      return uniform(rng_, 0, 1) == 0 ? expr::batch() : expr::kv_head();
    case 6:
      return uniform(rng_, 0, 1) == 0 ? expr::q_len() : expr::kv_len();
    case 7:
      return kParams[3]();
    case 8:
      return kParams[4](expr::batch());
    case 9:
      return uniform(rng_, 0, 3) == 0 ? expr::q_begin() : expr::q_index();
    default:
      if (huge_ && uniform(rng_, 0, 2) == 0) return Expr(kCorners[uniform(rng_, 0, 9)]);
      return Expr(uniform(rng_, -20, 20));
  }
}

// Every fourth expression is one that was made before, if one of this type and depth is at hand.
Expr RandomExpressions::shared(ValueType type, int depth) {
  if (!made_.empty() && uniform(rng_, 0, 3) == 0) {
    const auto count = static_cast<std::int64_t>(made_.size());
    const Expr& earlier = made_[static_cast<std::size_t>(uniform(rng_, 0, count - 1))];
    if (earlier.type() == type && earlier.node().depth <= depth + 2) return earlier;
  }
  Expr made = type == ValueType::integer ? new_integer(depth)
              : type == ValueType::real  ? new_real(depth)
                                         : new_boolean(depth);
  if (depth > 0) made_.push_back(made);
  if (made_.size() > 12) made_.erase(made_.begin());
  return made;
}

Expr RandomExpressions::new_integer(int depth) {
  if (depth == 0) return integer_leaf();
  const auto arg = [&] {
    return integer(depth - 1 - static_cast<int>(uniform(rng_, 0, depth - 1)));
  };
  switch (uniform(rng_, 0, 13)) {
    case 0:
    case 1:
      return arg() + arg();
    case 2:
    case 3:
      return arg() - arg();
    case 4:
      return arg() * arg();
    case 5:
      return floor_div(arg(), arg());
    case 6:
      return mod(arg(), arg());
    case 7:
      return min(arg(), arg());
    case 8:
      return max(arg(), arg());
    case 9:
      return uniform(rng_, 0, 1) == 0 ? abs(arg()) : -arg();
    case 10:
      // Times 1: an index that is exactly a head or a request would have its extent checked.
      return params()[5](arg() * 1, arg() * 1, arg() * 1);
    case 11:
      return shift_right(arg(), uniform(rng_, 0, 1) == 0 ? Expr(uniform(rng_, -3, 70)) : arg());
    case 12:
      return bit_and(arg(), arg());
    default:
      return where(boolean(depth - 1), arg(), arg());
  }
}

Expr RandomExpressions::new_real(int depth) {
  const auto arg = [&] { return real(depth - 1 - static_cast<int>(uniform(rng_, 0, depth - 1))); };
  if (depth == 0) {
    switch (uniform(rng_, 0, 3)) {
      case 0:
        return Expr(static_cast<double>(uniform(rng_, -8, 8)) / 4);
      case 1:
        return params()[0]();
      case 2:
        return params()[1](expr::q_head());
      default:
        return with_logit_ ? expr::logit() : params()[0]();
    }
  }
  switch (uniform(rng_, 0, 15)) {
    case 0:
    case 1:
      return arg() + arg();
    case 2:
      return arg() - arg();
    case 3:
      return arg() * arg();
    case 4:
      return arg() / arg();
    case 5:
      return -arg();
    case 6:
      return min(arg(), arg());
    case 7:
      return max(arg(), arg());
    case 8:
      return abs(arg());
    case 9:
      return exp(arg());
    case 10:
      return log(arg());
    case 11:
      return tanh(arg());
    case 12:
      return sigmoid(arg());
    case 13:
      return to_real(uniform(rng_, 0, 1) == 0 ? integer(depth - 1) : boolean(depth - 1));
    case 14:
      return params()[2](expr::q_head(), integer(depth - 1) * 1);
    default:
      return where(boolean(depth - 1), arg(), arg());
  }
}

Expr RandomExpressions::new_boolean(int depth) {
  if (depth <= 1) {
    const Expr a = integer(std::max(depth, 0));
    const Expr b = integer(0);
    switch (uniform(rng_, 0, 4)) {
      case 0:
        return a < b;
      case 1:
        return a >= b;
      case 2:
        return a == b;
      case 3:
        return a != b;
      default:
        return with_logit_ ? real(1) < real(0) : a <= b;
    }
  }
  const auto arg = [&] { return boolean(depth - 1); };
  switch (uniform(rng_, 0, 6)) {
    case 0:
      return arg() && arg();
    case 1:
      return arg() || arg();
    case 2:
      return !arg();
    case 3:
      return arg() == arg();
    case 4:
      return arg() != arg();
    case 5:
      return where(arg(), arg(), arg());
    default:
      return integer(depth - 1) <= integer(depth - 1);
  }
}

}  // namespace tilewright::test
