// SPDX-License-Identifier: Apache-2.0
#include "variant/graph.h"

#include <algorithm>
#include <array>
#include <unordered_map>
#include <utility>

#include "base/checks.h"

namespace tilewright {
namespace {

struct OpInfo {
  const char* name;
  int arity;
};

// Indexed by ExprOp.
constexpr std::array<OpInfo, 38> kOps = {{
    {"constant", 0},   {"param", 0},       {"logit", 0},     {"q_pos", 0},   {"kv_pos", 0},
    {"q_head", 0},     {"kv_head", 0},     {"batch", 0},     {"q_len", 0},   {"kv_len", 0},
    {"q_index", 0},    {"q_begin", 0},     {"value", 0},     {"add", 2},     {"sub", 2},
    {"mul", 2},        {"div", 2},         {"floor_div", 2}, {"mod", 2},     {"shift_right", 2},
    {"bit_and", 2},    {"neg", 1},         {"min", 2},       {"max", 2},     {"abs", 1},
    {"exp", 1},        {"log", 1},         {"tanh", 1},      {"sigmoid", 1}, {"to_real", 1},
    {"lt", 2},         {"le", 2},          {"eq", 2},        {"ne", 2},      {"logical_and", 2},
    {"logical_or", 2}, {"logical_not", 1}, {"where", 3},
}};
constexpr int kOpCount = static_cast<int>(ExprOp::where) + 1;

bool is_number(ValueType type) {
  return type != ValueType::boolean;
}

// Operators whose number operands become real when one of them is, or always.
enum class Promotion : std::uint8_t { none, mixed, always };

Promotion promotion_of(ExprOp op) {
  switch (op) {
    case ExprOp::div:
    case ExprOp::exp:
    case ExprOp::log:
    case ExprOp::tanh:
    case ExprOp::sigmoid:
      return Promotion::always;
    case ExprOp::add:
    case ExprOp::sub:
    case ExprOp::mul:
    case ExprOp::min:
    case ExprOp::max:
    case ExprOp::lt:
    case ExprOp::le:
    case ExprOp::eq:
    case ExprOp::ne:
    case ExprOp::where:
      return Promotion::mixed;
    default:
      return Promotion::none;
  }
}

Expr make_node(ExprOp op, ValueType type, std::vector<Expr> args, std::optional<Param> param = {}) {
  ExprNode node{op, type, 0, 0, std::move(param), std::move(args), 1};
  int below = 0;
  for (const Expr& arg : node.args) below = std::max(below, arg.node().depth);
  node.depth = below + 1;
  require(node.depth <= kMaxExprDepth,
          "an expression is {} operators deep: it must be at most {} deep", node.depth,
          kMaxExprDepth);
  return Expr(std::make_shared<const ExprNode>(std::move(node)));
}

Expr promoted(const Expr& arg) {
  if (arg.type() != ValueType::integer) return arg;
  if (arg.node().op == ExprOp::constant) return Expr(static_cast<float>(arg.node().integer));
  return make_node(ExprOp::to_real, ValueType::real, {arg});
}

std::string operand_types(const std::vector<Expr>& args) {
  std::string text;
  for (std::size_t i = 0; i < args.size(); ++i) {
    if (i > 0) text += i + 1 == args.size() ? " and " : ", ";
    text += args[i].defined() ? type_name(args[i].type()) : "an empty expression";
  }
  return text;
}

void require_operands(bool ok, ExprOp op, const std::vector<Expr>& args, const char* expected) {
  require(ok, "{}({}): {}", op_name(op), operand_types(args), expected);
}

}  // namespace

const char* op_name(ExprOp op) {
  return kOps[static_cast<std::size_t>(op)].name;
}

const char* type_name(ValueType type) {
  switch (type) {
    case ValueType::boolean:
      return "boolean";
    case ValueType::integer:
      return "integer";
    default:
      return "real";
  }
}

bool find_op(std::string_view name, ExprOp& op) {
  for (int i = 0; i < kOpCount; ++i) {
    if (name == kOps[static_cast<std::size_t>(i)].name) {
      op = static_cast<ExprOp>(i);
      return true;
    }
  }
  return false;
}

bool is_leaf(ExprOp op) {
  return op <= ExprOp::value && op != ExprOp::param;
}
int op_arity(ExprOp op) {
  return kOps[static_cast<std::size_t>(op)].arity;
}

ValueType result_type(ExprOp op, const std::vector<Expr>& args) {
  require_operands(
      static_cast<int>(args.size()) == op_arity(op) &&
          std::all_of(args.begin(), args.end(), [](const Expr& e) { return e.defined(); }),
      op, args, "it has the wrong number of operands or an empty one");
  const auto every = [&](auto test) {
    return std::all_of(args.begin(), args.end(), [&](const Expr& e) { return test(e.type()); });
  };
  const auto all_of_type = [&](ValueType type) {
    return every([type](ValueType t) { return t == type; });
  };
  switch (op) {
    case ExprOp::add:
    case ExprOp::sub:
    case ExprOp::mul:
    case ExprOp::min:
    case ExprOp::max:
    case ExprOp::neg:
    case ExprOp::abs:
      require_operands(every(is_number) && all_of_type(args[0].type()), op, args,
                       "operands must be numbers (integer or real)");
      return args[0].type();
    case ExprOp::div:
    case ExprOp::exp:
    case ExprOp::log:
    case ExprOp::tanh:
    case ExprOp::sigmoid:
      require_operands(all_of_type(ValueType::real), op, args,
                       "operands must be numbers (integer or real)");
      return ValueType::real;
    case ExprOp::floor_div:
    case ExprOp::mod:
    case ExprOp::shift_right:
    case ExprOp::bit_and:
      require_operands(all_of_type(ValueType::integer), op, args, "operands must be integers");
      return ValueType::integer;
    case ExprOp::to_real:
      require_operands(args[0].type() != ValueType::real, op, args,
                       "the operand must be an integer or a boolean");
      return ValueType::real;
    case ExprOp::lt:
    case ExprOp::le:
      require_operands(every(is_number) && all_of_type(args[0].type()), op, args,
                       "operands must be numbers (integer or real)");
      return ValueType::boolean;
    case ExprOp::eq:
    case ExprOp::ne:
      require_operands(all_of_type(args[0].type()), op, args,
                       "operands must be two numbers or two booleans");
      return ValueType::boolean;
    case ExprOp::logical_and:
    case ExprOp::logical_or:
    case ExprOp::logical_not:
      require_operands(all_of_type(ValueType::boolean), op, args, "operands must be booleans");
      return ValueType::boolean;
    case ExprOp::where:
      require_operands(args[0].type() == ValueType::boolean && args[1].type() == args[2].type(), op,
                       args, "it needs a boolean and two numbers or two booleans");
      return args[1].type();
    default:
      raise(ErrorCode::invalid_argument, "{} is not an operator", op_name(op));
  }
}

Expr make_operator(ExprOp op, std::vector<Expr> args) {
  const bool defined =
      std::all_of(args.begin(), args.end(), [](const Expr& e) { return e.defined(); });
  require_operands(defined, op, args, "an operand is empty");
  if (op == ExprOp::to_real && args.size() == 1) {
    if (args[0].type() == ValueType::real) return args[0];
    if (args[0].node().op == ExprOp::constant) {
      return Expr(static_cast<float>(args[0].node().integer));
    }
  }
  const Promotion promotion = promotion_of(op);
  const std::size_t first = op == ExprOp::where ? 1 : 0;
  const bool any_real =
      std::any_of(args.begin() + static_cast<std::ptrdiff_t>(std::min(first, args.size())),
                  args.end(), [](const Expr& e) { return e.type() == ValueType::real; });
  if (promotion == Promotion::always || (promotion == Promotion::mixed && any_real)) {
    const std::vector<Expr> given = args;
    for (std::size_t i = first; i < args.size(); ++i) {
      require_operands(args[i].type() != ValueType::boolean, op, given,
                       "a boolean does not mix with numbers");
      args[i] = promoted(args[i]);
    }
  }
  const ValueType type = result_type(op, args);
  return make_node(op, type, std::move(args));
}

Expr make_leaf(ExprOp op) {
  const bool real = op == ExprOp::logit || op == ExprOp::value;
  return make_node(op, real ? ValueType::real : ValueType::integer, {});
}

Expr make_param(const Param& param, std::vector<Expr> indices) {
  require(static_cast<int>(indices.size()) == param.rank(),
          "parameter \"{}\" is read with {} indices: its rank is {}", param.name(), indices.size(),
          param.rank());
  for (const Expr& index : indices) {
    require(index.defined() && index.type() == ValueType::integer,
            "parameter \"{}\" is read with an index that is {}: indices must be integers",
            param.name(), index.defined() ? type_name(index.type()) : "empty");
  }
  return make_node(ExprOp::param, param.type(), std::move(indices), param);
}

std::vector<const ExprNode*> topological_order(std::initializer_list<const Expr*> roots) {
  struct Frame {
    const ExprNode* node;
    std::size_t next_arg;
  };
  std::vector<const ExprNode*> order;
  std::unordered_map<const ExprNode*, int> depth;  // 0: on the path
  std::vector<Frame> path;
  const auto visit = [&](const Expr& e) {
    require(e.defined(), "an expression has an empty operand");
    if (!depth.emplace(&e.node(), 0).second) return;
    require(depth.size() <= static_cast<std::size_t>(kMaxExprNodes),
            "an expression graph has more than {} nodes", kMaxExprNodes);
    path.push_back({&e.node(), 0});
  };
  for (const Expr* root : roots) {
    if (!root->defined()) continue;
    visit(*root);
    while (!path.empty()) {
      const ExprNode* node = path.back().node;
      if (path.back().next_arg < node->args.size()) {
        visit(node->args[path.back().next_arg++]);
        continue;
      }
      int below = 0;
      for (const Expr& arg : node->args) below = std::max(below, depth[&arg.node()]);
      require(below < kMaxExprDepth, "an expression is more than {} operators deep", kMaxExprDepth);
      depth[node] = below + 1;
      order.push_back(node);
      path.pop_back();
    }
  }
  return order;
}

}  // namespace tilewright
