// SPDX-License-Identifier: Apache-2.0
// What every part that reads expression graphs shares: operator rules, bounds and the order of
// nodes.
#pragma once

#include <tilewright/variant.h>

#include <initializer_list>
#include <string_view>
#include <vector>

namespace tilewright {

// Bounds of one variant. They keep recursion over graphs shallow, that of destructors too.
inline constexpr int kMaxExprDepth = 128;
inline constexpr int kMaxExprNodes = 512;

const char* op_name(ExprOp op);
const char* type_name(ValueType type);
// The operator of a name as op_name gives it; false when there is none.
bool find_op(std::string_view name, ExprOp& op);

bool is_leaf(ExprOp op);  // constants and inputs, not parameters
int op_arity(ExprOp op);  // operands of an operator; 0 for leaves and parameters

// The type of `op` over operands of these types, which are already promoted. Errors name the
// operator and the types.
ValueType result_type(ExprOp op, const std::vector<Expr>& args);

// An operator node: checks the operands and converts integers to reals where the operator mixes
// them.
Expr make_operator(ExprOp op, std::vector<Expr> args);
Expr make_leaf(ExprOp op);
Expr make_param(const Param& param, std::vector<Expr> indices);

// Each node reachable from the roots once, operands before their users; empty roots are skipped.
// Error when there are more than kMaxExprNodes or a path is longer than kMaxExprDepth.
std::vector<const ExprNode*> topological_order(std::initializer_list<const Expr*> roots);

}  // namespace tilewright
