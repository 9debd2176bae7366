// SPDX-License-Identifier: Apache-2.0
#include "variant/cuda_mask.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "variant/cuda_expr.h"
#include "variant/graph.h"
#include "variant/mask_code.h"

namespace tilewright {
namespace {

constexpr Int128 kMaxSum = Int128{1} << 62;
constexpr Int128 kMaxPosition32 = Int128{1} << 31;

Int128 magnitude(Int128 value) {
  return value < 0 ? -value : value;
}

// The function that tells a mask's sets for one head.
class HeadFunction {
 public:
  HeadFunction(const Variant& variant, const std::vector<Param>& params,
               const MaskAnalysis::Code& code)
      : code_(code),
        one_interval_(code.one_interval()),
        uniform_nodes_(code.uniforms.nodes()),
        row_nodes_(code.rows.nodes()),
        uniforms_(variant.mask, params, "c", "    ", uniform_nodes_),
        rows_(variant.mask, params, "r", "      ", row_nodes_),
        ranges_(integer_ranges(topological_order({&variant.mask}),
                               {-(std::int64_t{1} << 31), (std::int64_t{1} << 31) - 1, false})) {}

  std::string text() {
    add_rows();
    const std::string result = node(0);
    std::string text = uniforms_.row_lines();
    if (code_.has_rows()) {
      text += row_declarations_ +
              "    for (i64 token = 0; token < queries.tokens(); ++token) {\n"
              "      row.q_pos = static_cast<i32>(queries.position(token));\n"
              "      row.q_index = static_cast<i32>(queries.q_index + token);\n" +
              rows_.row_lines() + row_updates_ + "    }\n";
    }
    text += lines_ + fmt::format("    return {};\n  }}\n", result);
    const auto used = [&](const char* name) { return text.find(name) != std::string::npos; };
    return fmt::format(
               "  TW_DEVICE static plan::{} head_sets({}, {}, {}) {{\n", sets_type(),
               used("queries.") ? "const plan::QueryRange& queries" : "const plan::QueryRange&",
               used("row.") ? "QueryRow row" : "const QueryRow&",
               used("params[") ? "const ParamSlot* params" : "const ParamSlot*") +
           text;
  }

  const char* sets_type() const { return one_interval_ ? "MaskInterval" : "MaskSets"; }

 private:
  Int128 most_of(const std::vector<UniformTerm>& terms,
                 const std::vector<const ExprNode*>& nodes) const {
    Int128 most = 0;
    for (const UniformTerm& term : terms) {
      const ExprNode* node = nodes[static_cast<std::size_t>(term.slot)];
      // Of a boolean there is no range.
      const auto range = ranges_.find(node);
      const Int128 value = range == ranges_.end() ? Int128{1}
                                                  : std::max(magnitude(range->second.low),
                                                             magnitude(range->second.high));
      most += magnitude(term.coefficient) * value;
    }
    return most;
  }

  // Whether the relation's sums stay within 64 bits.
  bool is_narrow(const MaskRelation& relation) const {
    Int128 most = magnitude(relation.constant) + most_of(relation.uniforms, uniform_nodes_) +
                  most_of(relation.rows, row_nodes_);
    for (const PositionTerm& term : relation.queries) {
      most += magnitude(term.coefficient) * (kMaxPosition32 + magnitude(term.shift));
    }
    return most <= kMaxSum;
  }

  static const char* number(bool narrow) { return narrow ? "i64" : "plan::Wide"; }

  static std::string product(const char* type, std::int64_t coefficient, const std::string& value) {
    std::string factor = fmt::format("{}{{{}}}", type, value);
    if (coefficient == 1) return factor;
    if (coefficient == -1) return fmt::format("-{}", factor);
    return fmt::format("{} * {}", factor, cuda_literal(coefficient));
  }

  static std::string text_of(const PositionTerm& term) {
    return fmt::format("plan::PositionTerm{{{}, {}, {}}}", cuda_literal(term.coefficient),
                       cuda_literal(term.shift), cuda_literal(term.size));
  }

  // The part that is the same for all rows of the range.
  std::string uniform_sum(const MaskRelation& relation, bool narrow) {
    std::string text;
    for (const UniformTerm& term : relation.uniforms) {
      const ExprNode& node = *uniform_nodes_[static_cast<std::size_t>(term.slot)];
      if (!text.empty()) text += " + ";
      text += product(number(narrow), term.coefficient, uniforms_.value(node));
    }
    if (relation.constant != 0 || text.empty()) {
      if (!text.empty()) text += " + ";
      text += narrow ? fmt::format("i64{{{}}}",
                                   cuda_literal(static_cast<std::int64_t>(relation.constant)))
                     : cuda_literal(relation.constant);
    }
    return text;
  }

  void add_rows() {
    for (std::size_t i = 0; i < code_.row_relations.size(); ++i) {
      const MaskRelation& relation =
          code_.relations[static_cast<std::size_t>(code_.row_relations[i])];
      const bool narrow = is_narrow(relation);
      const char* type = number(narrow);
      std::string sum;
      for (const UniformTerm& term : relation.rows) {
        const ExprNode& node = *row_nodes_[static_cast<std::size_t>(term.slot)];
        if (!sum.empty()) sum += " + ";
        sum += product(type, term.coefficient, rows_.value(node));
      }
      for (const PositionTerm& term : relation.queries) {
        sum += fmt::format(" + plan::term_at<{}>({}, row.q_pos)", type, text_of(term));
      }
      row_declarations_ += fmt::format("    plan::Offset<{}> sum{};\n", type, i);
      row_updates_ += fmt::format(
          "      const {0} row_sum{1} = {2};\n"
          "      if (token == 0) sum{1} = plan::Offset<{0}>(row_sum{1});\n"
          "      sum{1}.include(row_sum{1});\n",
          type, i, sum);
    }
    for (std::size_t i = 0; i < code_.row_conditions.size(); ++i) {
      const ExprNode& node = *row_nodes_[static_cast<std::size_t>(code_.row_conditions[i])];
      row_declarations_ += fmt::format("    bool any{0} = false;\n    bool every{0} = true;\n", i);
      row_updates_ +=
          fmt::format("      any{0} = any{0} || {1};\n      every{0} = every{0} && {1};\n", i,
                      rows_.value(node));
    }
  }

  std::string named(const std::string& text) {
    lines_ += fmt::format("    const plan::{} n{} = {};\n", sets_type(), ++count_, text);
    return fmt::format("n{}", count_);
  }
  // The name of sets that are one interval each.
  std::string interval(const std::string& text) {
    return named(one_interval_ ? text : fmt::format("plan::MaskSets({})", text));
  }

  std::string node(int index) {
    const MaskNode& node = code_.nodes[static_cast<std::size_t>(index)];
    switch (node.kind) {
      case MaskNode::Kind::all_of:
      case MaskNode::Kind::any_of:
        return group(index);
      case MaskNode::Kind::relation:
        return relation(code_.relations[static_cast<std::size_t>(node.index)]);
      case MaskNode::Kind::uniform: {
        const ExprNode& condition = *uniform_nodes_[static_cast<std::size_t>(node.index)];
        const std::string holds =
            fmt::format("{}{}", node.negated ? "!" : "", uniforms_.value(condition));
        return interval(fmt::format("plan::all_keys_if({0}, {0})", holds));
      }
      case MaskNode::Kind::row:
        return interval(node.negated
                            ? fmt::format("plan::all_keys_if(!every{0}, !any{0})", node.index)
                            : fmt::format("plan::all_keys_if(any{0}, every{0})", node.index));
      default:
        return interval("plan::all_keys_if(true, false)");
    }
  }

  std::string group(int index) {
    const MaskNode& parent = code_.nodes[static_cast<std::size_t>(index)];
    const char* join = parent.kind == MaskNode::Kind::all_of ? "plan::all_of" : "plan::any_of";
    std::string sets = node(index + 1);
    for (int child = end_of(index + 1); child < parent.end; child = end_of(child)) {
      const std::string other = node(child);
      sets = named(fmt::format("{}({}, {})", join, sets, other));
    }
    return sets;
  }

  int end_of(int index) const { return code_.nodes[static_cast<std::size_t>(index)].end; }

  std::string relation(const MaskRelation& relation) {
    const bool narrow = is_narrow(relation);
    std::string offset;
    if (relation.row_relation >= 0) {
      offset = fmt::format("sum{}", relation.row_relation);
      lines_ += fmt::format("    {}.add({});\n", offset, uniform_sum(relation, narrow));
    } else {
      offset = fmt::format("o{}", ++offsets_);
      lines_ += fmt::format("    plan::Offset<{}> {}({});\n", number(narrow), offset,
                            uniform_sum(relation, narrow));
      for (const PositionTerm& term : relation.queries) {
        lines_ += fmt::format("    plan::add_term({}, {}, queries.q_pos_min, queries.q_pos_max);\n",
                              offset, text_of(term));
      }
    }
    const std::string kv = text_of(relation.kv);
    switch (relation.kind) {
      case MaskRelation::Kind::le:
        return interval(fmt::format("plan::at_most_zero({}, {})", kv, offset));
      case MaskRelation::Kind::eq:
        return interval(fmt::format("plan::equal_to_zero({}, {})", kv, offset));
      default:
        break;
    }
    if (relation.kv.coefficient != 0) {
      return named(fmt::format("plan::unequal_to_zero({}, {})", kv, offset));
    }
    return interval(fmt::format(
        "plan::all_keys_if({0}.low != 0 || {0}.high != 0, {0}.low > 0 || {0}.high < 0)", offset));
  }

  const MaskAnalysis::Code& code_;
  bool one_interval_;
  std::vector<const ExprNode*> uniform_nodes_;
  std::vector<const ExprNode*> row_nodes_;
  CudaStatements uniforms_;
  CudaStatements rows_;
  IntegerRanges ranges_;
  std::string row_declarations_;
  std::string row_updates_;
  std::string lines_;
  int count_ = 0;
  int offsets_ = 0;
};

std::string members(MaskClass mask_class, bool one_interval) {
  return fmt::format(
      "  static constexpr i32 kMaskClass = {};\n"
      "  static constexpr bool kOneInterval = {};\n\n",
      static_cast<int>(mask_class), one_interval);
}

}  // namespace

std::string cuda_mask_ranges(const Variant& variant, const std::vector<Param>& params) {
  if (!variant.mask.defined()) {
    return members(MaskClass::none, true) +
           "  TW_DEVICE static plan::MaskInterval interval(const plan::QueryRange& queries, "
           "const ParamSlot*) {\n"
           "    return plan::all_keys_if(!queries.empty(), !queries.empty());\n"
           "  }\n"
           "  TW_DEVICE static plan::MaskRanges ranges(const plan::QueryRange& queries, "
           "const ParamSlot* params) {\n"
           "    return plan::MaskSets(interval(queries, params)).ranges();\n"
           "  }\n";
  }
  const MaskAnalysis analysis(variant);
  MaskAnalysis::Code code;
  compile_mask(variant, code);
  HeadFunction head(variant, params, code);
  const bool one = analysis.one_interval();
  std::string text = members(analysis.mask_class(), one) + head.text();
  if (one) {
    text +=
        "  TW_DEVICE static plan::MaskSets interval_sets(const plan::QueryRange& queries, "
        "const QueryRow& row,\n"
        "                                                const ParamSlot* params) {\n"
        "    return plan::MaskSets(head_sets(queries, row, params));\n"
        "  }\n";
  }
  const auto call = [&](const char* sets, const char* function) {
    return fmt::format("over_heads<plan::{}, {}, {}>(queries, params)", sets, code.uses_head,
                       function);
  };
  text += fmt::format(
      "\n  TW_DEVICE static plan::MaskRanges ranges(const plan::QueryRange& queries, "
      "const ParamSlot* params) {{\n"
      "    return {}.ranges();\n"
      "  }}\n",
      call("MaskSets", one ? "interval_sets" : "head_sets"));
  if (!one) {
    return text +
           "  TW_DEVICE static plan::MaskInterval interval(const plan::QueryRange&, "
           "const ParamSlot*) {\n"
           "    return plan::all_keys_if(true, false);\n"
           "  }\n";
  }
  return text + fmt::format(
                    "  TW_DEVICE static plan::MaskInterval interval(const plan::QueryRange& "
                    "queries,\n"
                    "                                               const ParamSlot* params) {{\n"
                    "    return {};\n"
                    "  }}\n",
                    call("MaskInterval", "head_sets"));
}

}  // namespace tilewright
