// SPDX-License-Identifier: Apache-2.0
// Brings a mask to its closed form: comparisons of integers become linear relations, abs, min, max
// and where inside them become and/or. What depends on the query alone, but not linearly, becomes a
// value of the row.
#include <algorithm>
#include <optional>
#include <unordered_map>
#include <utility>

#include "variant/graph.h"
#include "variant/mask_code.h"
#include "variant/range.h"

namespace tilewright {
namespace {

constexpr int kMaxMaskNodes = 256;
constexpr int kMaxSteps = 8192;  // shared subtrees are expanded: bounds the work

// What a value depends on, as far as the plan is concerned.
struct Dependence {
  bool in_plan = true;  // known when the plan is made, given the query and the key
  bool uniform = true;  // the same for all queries and keys of a (request, head)
  bool no_key = true;   // the same for all keys
  bool closed = true;   // linear in positions and chunks, as far as it depends on them
  bool head = false;

  bool is_uniform() const { return in_plan && uniform; }
  bool is_row() const { return in_plan && no_key; }
};

struct Linear {
  struct Term {
    enum class Kind : std::uint8_t { key, query, uniform, row, piecewise };
    Kind kind;
    Int128 coefficient;
    std::int64_t shift = 0;
    std::int64_t size = 1;
    const ExprNode* node = nullptr;  // uniform, row, piecewise (abs, min, max, where)

    bool same_value(const Term& other) const {
      return kind == other.kind && shift == other.shift && size == other.size && node == other.node;
    }
  };
  std::vector<Term> terms;
  Int128 constant = 0;

  void add(const Term& term) {
    const auto known =
        std::find_if(terms.begin(), terms.end(), [&](const Term& t) { return t.same_value(term); });
    if (known == terms.end()) {
      terms.push_back(term);
      return;
    }
    known->coefficient += term.coefficient;
    if (known->coefficient == 0) terms.erase(known);
  }

  Linear negated() const {
    Linear result = *this;
    for (Term& term : result.terms) term.coefficient = -term.coefficient;
    result.constant = -constant;
    return result;
  }

  Linear plus_one() const {
    Linear result = *this;
    result.constant += 1;
    return result;
  }
};

using Kind = MaskNode::Kind;
using RelationKind = MaskRelation::Kind;

bool within(Int128 value, Int128 limit) {
  return value >= -limit && value <= limit;
}

class Compiler {
 public:
  Compiler(const Variant& variant, MaskAnalysis::Code& code)
      : code_(code), params_(variant.params()) {
    const auto order = topological_order({&variant.mask});
    // Positions given by callers may be negative (more queries than keys).
    ranges_ = integer_ranges(order, {-(std::int64_t{1} << 31), (std::int64_t{1} << 31) - 1, false});
    for (const ExprNode* node : order) dependence_.emplace(node, dependence_of(*node));
  }

  bool compile(const ExprNode& mask) {
    boolean(mask, false);
    if (exhausted()) {
      code_ = {};
      closed_ = false;
      code_.nodes.push_back({.kind = Kind::unknown, .end = 1});
    }
    return closed_;
  }

 private:
  Dependence dependence_of(const ExprNode& node) const {
    Dependence result;
    switch (node.op) {
      case ExprOp::logit:
      case ExprOp::value:
      case ExprOp::kv_pos:
        result.no_key = result.uniform = false;
        break;
      case ExprOp::q_index:
        result.closed = result.uniform = false;
        break;
      case ExprOp::q_pos:
        result.uniform = false;
        break;
      case ExprOp::q_head:
        result.head = true;
        break;
      case ExprOp::param:
        result.in_plan = node.param->bind() == Bind::plan;
        break;
      default:
        break;
    }
    for (const Expr& arg : node.args) {
      const Dependence& below = dependence_.at(&arg.node());
      result.in_plan &= below.in_plan;
      result.uniform &= below.uniform;
      result.no_key &= below.no_key;
      result.closed &= below.closed;
      result.head |= below.head;
    }
    result.closed &= result.uniform || may_be_closed(node);
    return result;
  }

  // Whether linear() and boolean() may take the node apart, going by its operator.
  static bool may_be_closed(const ExprNode& node) {
    switch (node.op) {
      case ExprOp::mul:
        return node.args[0].node().op == ExprOp::constant ||
               node.args[1].node().op == ExprOp::constant;
      case ExprOp::lt:
      case ExprOp::le:
        return node.args[0].type() == ValueType::integer;
      case ExprOp::eq:
      case ExprOp::ne:
        return node.args[0].type() != ValueType::real;
      case ExprOp::param:
      case ExprOp::mod:
      case ExprOp::shift_right:
      case ExprOp::bit_and:
        return false;
      default:
        return node.type != ValueType::real;
    }
  }

  bool exhausted() const {
    return steps_ > kMaxSteps || code_.nodes.size() > static_cast<std::size_t>(kMaxMaskNodes);
  }

  void unknown() {
    closed_ = false;
    push({.kind = Kind::unknown});
  }

  void push(MaskNode node) {
    node.end = static_cast<int>(code_.nodes.size()) + 1;
    code_.nodes.push_back(node);
  }

  template <typename First, typename Second>
  void group(Kind kind, const First& first, const Second& second) {
    const std::size_t index = code_.nodes.size();
    push({.kind = kind});
    first();
    second();
    code_.nodes[index].end = static_cast<int>(code_.nodes.size());
  }

  int uniform_slot(const ExprNode& node) {
    code_.uses_head |= dependence_.at(&node).head;
    return code_.uniforms.add(node, params_);
  }

  int row_slot(const ExprNode& node) {
    code_.uses_head |= dependence_.at(&node).head;
    return code_.rows.add(node, params_);
  }

  // A condition on the query row alone.
  void row_condition(const ExprNode& node, bool negate) {
    const int count = static_cast<int>(code_.row_conditions.size());
    if (count >= kMaxRowConditions) return unknown();
    push({.kind = Kind::row, .negated = negate, .index = count});
    code_.row_conditions.push_back(row_slot(node));
  }

  void boolean(const ExprNode& node, bool negate) {
    ++steps_;
    if (exhausted()) return unknown();
    const Dependence& known = dependence_.at(&node);
    if (known.is_uniform()) {
      return push({.kind = Kind::uniform, .negated = negate, .index = uniform_slot(node)});
    }
    if (known.is_row() && !known.closed) return row_condition(node, negate);
    switch (node.op) {
      case ExprOp::logical_not:
        return boolean(node.args[0].node(), !negate);
      case ExprOp::logical_and:
      case ExprOp::logical_or: {
        const bool all_of = (node.op == ExprOp::logical_and) != negate;
        return group(
            all_of ? Kind::all_of : Kind::any_of, [&] { boolean(node.args[0].node(), negate); },
            [&] { boolean(node.args[1].node(), negate); });
      }
      case ExprOp::where:
        return either(node.args[0].node(), node.args[1].node(), negate, node.args[2].node(),
                      negate);
      case ExprOp::lt:
      case ExprOp::le:
      case ExprOp::eq:
      case ExprOp::ne:
        return comparison(node, negate);
      default:
        return unknown();
    }
  }

  // condition ? yes : no, each of the two negated or not
  void either(const ExprNode& condition, const ExprNode& yes, bool negate_yes, const ExprNode& no,
              bool negate_no) {
    const auto branch = [&](bool taken, const ExprNode& value, bool negate) {
      group(
          Kind::all_of, [&] { boolean(condition, !taken); }, [&] { boolean(value, negate); });
    };
    group(
        Kind::any_of, [&] { branch(true, yes, negate_yes); },
        [&] { branch(false, no, negate_no); });
  }

  void comparison(const ExprNode& node, bool negate) {
    const ExprNode& a = node.args[0].node();
    const ExprNode& b = node.args[1].node();
    const bool equal = (node.op == ExprOp::eq) != negate;
    if (a.type == ValueType::boolean) return either(a, b, !equal, b, equal);
    Linear difference;
    if (a.type != ValueType::integer || ranges_.at(&a).wraps || ranges_.at(&b).wraps ||
        !linear(a, 1, difference) || !linear(b, -1, difference)) {
      return unknown();
    }
    if (node.op == ExprOp::eq || node.op == ExprOp::ne) {
      return relation(equal ? RelationKind::eq : RelationKind::ne, difference);
    }
    const Linear at_most = node.op == ExprOp::lt ? difference.plus_one() : difference;
    relation(RelationKind::le, negate ? at_most.negated().plus_one() : at_most);
  }

  // Adds scale * node to `sum`; false when it is not linear in the terms there are.
  bool linear(const ExprNode& node, Int128 scale, Linear& sum) {
    ++steps_;
    if (exhausted() || !within(scale, kMaxCoefficient)) return false;
    using TermKind = Linear::Term::Kind;
    if (node.op == ExprOp::constant) {
      sum.constant += scale * node.integer;
      return true;
    }
    const Dependence& known = dependence_.at(&node);
    if (known.is_uniform()) {
      sum.add({.kind = TermKind::uniform, .coefficient = scale, .node = &node});
      return true;
    }
    if (known.is_row() && !known.closed) return row_term(node, scale, sum);
    const auto arg = [&](std::size_t i) -> const ExprNode& { return node.args[i].node(); };
    switch (node.op) {
      case ExprOp::kv_pos:
        sum.add({.kind = TermKind::key, .coefficient = scale});
        return true;
      case ExprOp::q_pos:
        sum.add({.kind = TermKind::query, .coefficient = scale});
        return true;
      case ExprOp::add:
        return linear(arg(0), scale, sum) && linear(arg(1), scale, sum);
      case ExprOp::sub:
        return linear(arg(0), scale, sum) && linear(arg(1), -scale, sum);
      case ExprOp::neg:
        return linear(arg(0), -scale, sum);
      case ExprOp::mul:
        if (arg(0).op == ExprOp::constant) return linear(arg(1), scale * arg(0).integer, sum);
        if (arg(1).op == ExprOp::constant) return linear(arg(0), scale * arg(1).integer, sum);
        return false;
      case ExprOp::floor_div:
        return chunk(arg(0), arg(1), scale, sum) || (known.is_row() && row_term(node, scale, sum));
      case ExprOp::abs:
      case ExprOp::min:
      case ExprOp::max:
      case ExprOp::where:
        sum.add({.kind = TermKind::piecewise, .coefficient = scale, .node = &node});
        return true;
      default:
        return false;
    }
  }

  static bool row_term(const ExprNode& node, Int128 scale, Linear& sum) {
    sum.add({.kind = Linear::Term::Kind::row, .coefficient = scale, .node = &node});
    return true;
  }

  // scale * floor((position + shift) / size)
  bool chunk(const ExprNode& dividend, const ExprNode& divisor, Int128 scale, Linear& sum) {
    if (divisor.op != ExprOp::constant || divisor.integer <= 0 ||
        divisor.integer > kMaxCoefficient) {
      return false;
    }
    Linear inner;
    if (!linear(dividend, 1, inner) || inner.terms.size() != 1 ||
        !within(inner.constant, kMaxCoefficient)) {
      return false;
    }
    Linear::Term term = inner.terms[0];
    const bool position =
        term.kind == Linear::Term::Kind::key || term.kind == Linear::Term::Kind::query;
    if (!position || term.coefficient != 1 || term.size != 1 || term.shift != 0) return false;
    term.coefficient = scale;
    term.shift = static_cast<std::int64_t>(inner.constant);
    term.size = divisor.integer;
    sum.add(term);
    return true;
  }

  // `sum` compared with 0.
  void relation(RelationKind kind, const Linear& sum) {
    ++steps_;
    if (exhausted()) return unknown();
    const auto piece = std::find_if(sum.terms.begin(), sum.terms.end(), [](const auto& term) {
      return term.kind == Linear::Term::Kind::piecewise;
    });
    if (piece == sum.terms.end()) return leaf(kind, sum);
    if (kind == RelationKind::eq) {
      return group(
          Kind::all_of, [&] { relation(RelationKind::le, sum); },
          [&] { relation(RelationKind::le, sum.negated()); });
    }
    if (kind == RelationKind::ne) {
      return group(
          Kind::any_of, [&] { relation(RelationKind::le, sum.plus_one()); },
          [&] { relation(RelationKind::le, sum.negated().plus_one()); });
    }
    Linear rest = sum;
    rest.terms.erase(rest.terms.begin() + (piece - sum.terms.begin()));
    split(*piece->node, piece->coefficient, rest);
  }

  // rest + scale * node <= 0, where node is abs, min, max or where.
  void split(const ExprNode& node, Int128 scale, const Linear& rest) {
    const auto branch = [&](const ExprNode& value, Int128 coefficient) {
      Linear sum = rest;
      linear(value, coefficient, sum) ? relation(RelationKind::le, sum) : unknown();
    };
    if (node.op == ExprOp::where) {
      const auto guarded = [&](bool taken, std::size_t arg) {
        group(
            Kind::all_of, [&] { boolean(node.args[0].node(), !taken); },
            [&] { branch(node.args[arg].node(), scale); });
      };
      return group(
          Kind::any_of, [&] { guarded(true, 1); }, [&] { guarded(false, 2); });
    }
    // abs(x) is max(x, -x); a negative scale turns max into min. The larger of two is <= 0 when
    // both are.
    const bool larger = (node.op != ExprOp::min) == (scale > 0);
    const bool is_abs = node.op == ExprOp::abs;
    group(
        larger ? Kind::all_of : Kind::any_of, [&] { branch(node.args[0].node(), scale); },
        [&] { branch(node.args[is_abs ? 0 : 1].node(), is_abs ? -scale : scale); });
  }

  void leaf(RelationKind kind, const Linear& sum) {
    MaskRelation relation;
    relation.kind = kind;
    relation.constant = sum.constant;
    for (const Linear::Term& term : sum.terms) {
      if (!within(term.coefficient, kMaxCoefficient)) return unknown();
      const auto coefficient = static_cast<std::int64_t>(term.coefficient);
      const PositionTerm position{coefficient, term.shift, term.size};
      switch (term.kind) {
        case Linear::Term::Kind::key:
          if (relation.kv.coefficient != 0) return unknown();
          relation.kv = position;
          break;
        case Linear::Term::Kind::query:
          relation.queries.push_back(position);
          break;
        case Linear::Term::Kind::row:
          relation.rows.push_back({coefficient, row_slot(*term.node)});
          break;
        default:
          relation.uniforms.push_back({coefficient, uniform_slot(*term.node)});
          break;
      }
    }
    const int index = static_cast<int>(code_.relations.size());
    if (!relation.rows.empty()) {
      if (code_.row_relations.size() >= static_cast<std::size_t>(kMaxRowRelations)) {
        return unknown();
      }
      relation.row_relation = static_cast<int>(code_.row_relations.size());
      code_.row_relations.push_back(index);
    }
    push({.kind = Kind::relation, .index = index});
    code_.relations.push_back(std::move(relation));
  }

  MaskAnalysis::Code& code_;
  std::vector<Param> params_;
  IntegerRanges ranges_;
  std::unordered_map<const ExprNode*, Dependence> dependence_;
  bool closed_ = true;
  int steps_ = 0;
};

}  // namespace

// `below`: all positions below some bound; `from`: all from some bound on.
MaskAnalysis::Code::Shape MaskAnalysis::Code::shape(int node) const {
  const MaskNode& n = nodes[static_cast<std::size_t>(node)];
  if (n.kind == Kind::relation) {
    const MaskRelation& relation = relations[static_cast<std::size_t>(n.index)];
    if (relation.kv.coefficient == 0) return Shape::all_or_none;
    if (relation.kind == RelationKind::eq) return Shape::interval;
    if (relation.kind == RelationKind::ne) return Shape::other;
    return relation.kv.coefficient > 0 ? Shape::below : Shape::from;
  }
  Shape joined = Shape::all_or_none;
  for (int child = node + 1; child < n.end; child = nodes[static_cast<std::size_t>(child)].end) {
    const Shape next = shape(child);
    if (joined == Shape::other || next == Shape::other) return Shape::other;
    if (joined == Shape::all_or_none) {
      joined = next;
    } else if (next != Shape::all_or_none && (next != joined || next == Shape::interval)) {
      joined = n.kind == Kind::all_of ? Shape::interval : Shape::other;
    }
  }
  return joined;
}

bool compile_mask(const Variant& variant, MaskAnalysis::Code& code) {
  return Compiler(variant, code).compile(variant.mask.node());
}

}  // namespace tilewright
