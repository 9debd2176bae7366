// SPDX-License-Identifier: Apache-2.0
#include "variant/scalar_code.h"

#include <cmath>

#include "base/checks.h"
#include "variant/integer.h"

namespace tilewright {
namespace {

Scalar integer(std::int64_t value) {
  return {.integer = value};
}
Scalar boolean(bool value) {
  return {.integer = value ? 1 : 0};
}
Scalar real(float value) {
  return {.real = value};
}

Scalar integer_operator(ExprOp op, std::int64_t a, std::int64_t b) {
  switch (op) {
    case ExprOp::add:
      return integer(wrap_add(a, b));
    case ExprOp::sub:
      return integer(wrap_sub(a, b));
    case ExprOp::mul:
      return integer(wrap_mul(a, b));
    case ExprOp::floor_div:
      return integer(floor_div(a, b));
    case ExprOp::mod:
      return integer(floor_mod(a, b));
    case ExprOp::shift_right:
      return integer(shift_right(a, b));
    case ExprOp::bit_and:
      return integer(a & b);
    case ExprOp::neg:
      return integer(wrap_neg(a));
    case ExprOp::abs:
      return integer(wrap_abs(a));
    case ExprOp::min:
      return integer(a < b ? a : b);
    case ExprOp::max:
      return integer(b < a ? a : b);
    case ExprOp::to_real:
      return real(static_cast<float>(a));
    case ExprOp::lt:
      return boolean(a < b);
    case ExprOp::le:
      return boolean(a <= b);
    case ExprOp::eq:
      return boolean(a == b);
    case ExprOp::ne:
      return boolean(a != b);
    case ExprOp::logical_and:
      return integer(a & b);
    case ExprOp::logical_or:
      return integer(a | b);
    case ExprOp::logical_not:
      return integer(1 - a);
    default:
      return integer(0);
  }
}

// min and max give the second operand when either is NaN, as the vector instructions do.
Scalar real_operator(ExprOp op, float a, float b) {
  switch (op) {
    case ExprOp::add:
      return real(a + b);
    case ExprOp::sub:
      return real(a - b);
    case ExprOp::mul:
      return real(a * b);
    case ExprOp::div:
      return real(a / b);
    case ExprOp::neg:
      return real(-a);
    case ExprOp::abs:
      return real(std::fabs(a));
    case ExprOp::min:
      return real(a < b ? a : b);
    case ExprOp::max:
      return real(b < a ? a : b);
    case ExprOp::exp:
      return real(std::exp(a));
    case ExprOp::log:
      return real(std::log(a));
    case ExprOp::tanh:
      return real(std::tanh(a));
    case ExprOp::sigmoid:
      return real(1.0F / (1.0F + std::exp(-a)));
    case ExprOp::lt:
      return boolean(a < b);
    case ExprOp::le:
      return boolean(a <= b);
    case ExprOp::eq:
      return boolean(a == b);
    case ExprOp::ne:
      return boolean(a != b);
    default:
      return real(0);
  }
}

}  // namespace

int ScalarCode::add(const ExprNode& node, const std::vector<Param>& params) {
  if (const auto known = slot_of_.find(&node); known != slot_of_.end()) return known->second;
  Instruction in{};
  in.op = node.op;
  in.type = node.type;
  for (std::size_t i = 0; i < node.args.size(); ++i) {
    in.args[i] = static_cast<std::uint16_t>(add(node.args[i].node(), params));
    in.operand = node.args[i].type();
  }
  if (node.op == ExprOp::constant) {
    in.constant =
        node.type == ValueType::real ? real(static_cast<float>(node.real)) : integer(node.integer);
  }
  if (node.op == ExprOp::param) {
    for (std::size_t i = 0; i < params.size(); ++i) {
      if (params[i].name() == node.param->name()) in.param = static_cast<std::uint8_t>(i);
    }
  }
  if (slots() >= kMaxSlots) raise(ErrorCode::internal, "an expression has too many scalar slots");
  instructions_.push_back(in);
  slot_of_.emplace(&node, slots() - 1);
  return slots() - 1;
}

std::vector<const ExprNode*> ScalarCode::nodes() const {
  std::vector<const ExprNode*> nodes(instructions_.size());
  for (const auto& [node, slot] : slot_of_) nodes[static_cast<std::size_t>(slot)] = node;
  return nodes;
}

Scalar ScalarCode::evaluate(const Instruction& in, const RowContext& row, const Bindings& bindings,
                            const Scalar* slots) {
  switch (in.op) {
    case ExprOp::constant:
      return in.constant;
    case ExprOp::param: {
      const BoundParam& param = bindings.params[in.param];
      std::int64_t index[3] = {};
      for (int dim = 0; dim < param.rank; ++dim) index[dim] = slots[in.args[dim]].integer;
      return in.type == ValueType::real ? real(param.real_at(index))
                                        : integer(param.integer_at(index));
    }
    case ExprOp::q_pos:
      return integer(row.q_pos);
    case ExprOp::q_head:
      return integer(row.q_head);
    case ExprOp::kv_head:
      return integer(row.kv_head);
    case ExprOp::batch:
      return integer(row.batch);
    case ExprOp::q_len:
      return integer(row.q_len);
    case ExprOp::kv_len:
      return integer(row.kv_len);
    case ExprOp::q_index:
      return integer(row.q_index);
    case ExprOp::q_begin:
      return integer(row.q_begin);
    case ExprOp::where:
      return slots[in.args[0]].integer != 0 ? slots[in.args[1]] : slots[in.args[2]];
    default:
      return in.operand == ValueType::real
                 ? real_operator(in.op, slots[in.args[0]].real, slots[in.args[1]].real)
                 : integer_operator(in.op, slots[in.args[0]].integer, slots[in.args[1]].integer);
  }
}

void ScalarCode::run(const RowContext& row, const Bindings& bindings, Scalar* slots) const {
  for (std::size_t i = 0; i < instructions_.size(); ++i) {
    slots[i] = evaluate(instructions_[i], row, bindings, slots);
  }
}

}  // namespace tilewright
