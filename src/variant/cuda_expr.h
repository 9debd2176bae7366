// SPDX-License-Identifier: Apache-2.0
// Expressions as statements of device code (kernels/attention/math.h has the operators).
#pragma once

#include <tilewright/variant.h>

#include <cstdint>
#include <optional>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "variant/integer.h"
#include "variant/range.h"

namespace tilewright {

std::string cuda_literal(float value);
std::string cuda_literal(std::int64_t value);
std::string cuda_literal(Int128 value);  // as a plan::Wide

// What a name in the text stands for.
struct CudaVariable {
  std::string type;
  std::string name;
};

// The body of one function. It reads `row`, a QueryRow, `params`, and, as far as the expressions
// do, `kv_pos`, `logit` and `value`. Integers have 32 bits where that is proven to be enough.
class CudaStatements {
 public:
  // Expressions are below `root`. Variables are named by `prefix` and a number; every line is
  // indented by `indent`. The values of `exact` nodes are asked for by value().
  CudaStatements(const Expr& root, const std::vector<Param>& params, std::string prefix,
                 std::string indent, const std::vector<const ExprNode*>& exact = {});

  // The text of a node's value. What it needs is appended to lines(), or to row_lines() what is the
  // same for all keys and elements of a row.
  std::string value(const ExprNode& node) { return emit(node).text; }
  const std::string& lines() const { return lines_; }
  const std::string& row_lines() const { return row_lines_; }
  // Variables of row_lines(). Their names are `prefix` and a number, too.
  const std::vector<CudaVariable>& row_variables() const { return row_variables_; }

 private:
  enum class Type : std::uint8_t { real, boolean, i32, i64 };
  struct Value {
    std::string text;
    Type type = Type::real;
  };

  // kv_pos, or floor((kv_pos + shift) / size), on one side of a comparison.
  struct KeyBound {
    bool key_is_less = false;  // of the two operands, the key's is the first one
    std::int64_t shift = 0;
    std::int64_t size = 1;
    std::vector<std::pair<std::int64_t, const ExprNode*>> terms;  // of the bound: the key's equal
    Int128 constant = 0;
    Int128 most = 0;  // of the bound's magnitude
    bool narrow = false;
  };

  std::optional<KeyBound> key_bound(const ExprNode& comparison) const;
  bool add_terms(const ExprNode& node, Int128 scale, KeyBound& bound, Int128& key) const;
  void find_saturable(const std::vector<const ExprNode*>& order);
  bool tolerates(const ExprNode& user, std::size_t arg) const;
  bool is_narrow(const ExprNode& node) const;

  Value emit(const ExprNode& node);
  Value leaf(const ExprNode& node);
  Value parameter(const ExprNode& node);
  Value real(const ExprNode& node);
  Value to_real(const ExprNode& node);
  Value integer(const ExprNode& node);
  Value chosen_integer(const ExprNode& node);
  Value divided(const ExprNode& node, const Value& a, const Value& b);
  Value boolean(const ExprNode& node);
  Value comparison(const ExprNode& node, const char* sign);
  std::string compared_key(ExprOp op, const KeyBound& bound);
  std::string sum(const KeyBound& bound);
  // A 64-bit text as a node's value has it: saturated where that is allowed.
  Value from_wide(const ExprNode& node, const std::string& text) const;

  Value named(const Value& value, bool varying);
  Value named_in_row(std::string text, Type type) { return named({std::move(text), type}, false); }
  static std::string wide(const Value& value);
  static std::string low(const Value& value);
  static const char* type_text(Type type);

  const std::vector<Param>& params_;
  std::string prefix_;
  std::string indent_;
  IntegerRanges ranges_;
  std::unordered_set<const ExprNode*> varying_;    // with the key, or the logit
  std::unordered_set<const ExprNode*> saturable_;  // all users take the nearest 32-bit integer
  std::unordered_map<const ExprNode*, Value> values_;
  std::unordered_map<std::string, Value> known_;  // by text: a subexpression is computed once
  std::string lines_;
  std::string row_lines_;
  std::vector<CudaVariable> row_variables_;
};

}  // namespace tilewright
