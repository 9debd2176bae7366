// SPDX-License-Identifier: Apache-2.0
// Expressions that have one value a row, compiled to a list of scalar instructions.
#pragma once

#include <tilewright/variant.h>

#include <cstdint>
#include <unordered_map>
#include <vector>

#include "variant/bindings.h"
#include "variant/graph.h"

namespace tilewright {

union Scalar {
  std::int64_t integer;  // booleans: 0 or 1
  float real;
};

class ScalarCode {
 public:
  // Slots a caller must have room for, whatever the code.
  static constexpr int kMaxSlots = kMaxExprNodes;

  // Adds a node and all below it, none of which reads logit, kv_pos or value; gives its slot.
  // `params` gives parameters their indices in Bindings.
  int add(const ExprNode& node, const std::vector<Param>& params);

  // By slot: what they hold. The graph must still be there.
  std::vector<const ExprNode*> nodes() const;

  int slots() const { return static_cast<int>(instructions_.size()); }
  // Allocates nothing. Real arithmetic is f32, operator by operator.
  void run(const RowContext& row, const Bindings& bindings, Scalar* slots) const;

 private:
  struct Instruction {
    ExprOp op;
    ValueType type;         // of the result
    ValueType operand;      // of the operands that are not a condition
    std::uint8_t param;     // index in Bindings
    std::uint16_t args[3];  // slots
    Scalar constant;
  };

  static Scalar evaluate(const Instruction& in, const RowContext& row, const Bindings& bindings,
                         const Scalar* slots);

  std::vector<Instruction> instructions_;  // instruction i writes slot i
  std::unordered_map<const ExprNode*, int> slot_of_;
};

}  // namespace tilewright
