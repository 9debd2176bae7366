// SPDX-License-Identifier: Apache-2.0
#include "variant/mask.h"

#include "variant/mask_code.h"

namespace tilewright {
namespace {

using plan::MaskSets;
using Offset = plan::Offset<Int128>;

Int128 sum_of(const std::vector<UniformTerm>& terms, const Scalar* slots) {
  Int128 sum = 0;
  for (const UniformTerm& term : terms) sum += Int128{term.coefficient} * slots[term.slot].integer;
  return sum;
}

// What depends on rows, over the rows of a range.
struct RowValues {
  Offset relations[kMaxRowRelations];
  bool any[kMaxRowConditions];
  bool every[kMaxRowConditions];
};

// Evaluates the mask's row code for every token of a range, for one head.
void evaluate_rows(const MaskAnalysis::Code& code, const QueryRange& queries, RowContext row,
                   const Bindings& bindings, const Scalar* uniforms, RowValues& values) {
  const std::size_t relations = code.row_relations.size();
  const std::size_t conditions = code.row_conditions.size();
  Scalar slots[ScalarCode::kMaxSlots];
  for (std::int64_t token = 0; token < queries.tokens(); ++token) {
    row.q_pos = queries.position(token);
    row.q_index = queries.q_index + token;
    code.rows.run(row, bindings, slots);
    for (std::size_t i = 0; i < relations; ++i) {
      const MaskRelation& relation =
          code.relations[static_cast<std::size_t>(code.row_relations[i])];
      Int128 offset = sum_of(relation.rows, slots);
      for (const PositionTerm& term : relation.queries)
        offset += plan::term_at<Int128>(term, row.q_pos);
      Offset& bounds = values.relations[i];
      if (token == 0) bounds = Offset(offset);
      bounds.include(offset);
    }
    for (std::size_t i = 0; i < conditions; ++i) {
      const bool holds = slots[code.row_conditions[i]].integer != 0;
      values.any[i] = holds || (token > 0 && values.any[i]);
      values.every[i] = holds && (token == 0 || values.every[i]);
    }
  }
  for (std::size_t i = 0; i < relations; ++i) {
    const MaskRelation& relation = code.relations[static_cast<std::size_t>(code.row_relations[i])];
    values.relations[i].add(relation.constant + sum_of(relation.uniforms, uniforms));
  }
}

Offset offset_of(const MaskRelation& relation, const QueryRange& queries, const Scalar* slots,
                 const RowValues& rows) {
  if (relation.row_relation >= 0) return rows.relations[relation.row_relation];
  Offset offset(relation.constant + sum_of(relation.uniforms, slots));
  for (const PositionTerm& term : relation.queries) {
    plan::add_term(offset, term, queries.q_pos_min, queries.q_pos_max);
  }
  return offset;
}

class Evaluator {
 public:
  Evaluator(const MaskAnalysis::Code& code, const QueryRange& queries, const Scalar* slots,
            const RowValues& rows)
      : code_(code), queries_(queries), slots_(slots), rows_(rows) {}

  MaskSets node(int index) const {
    const MaskNode& node = code_.nodes[static_cast<std::size_t>(index)];
    switch (node.kind) {
      case MaskNode::Kind::all_of:
      case MaskNode::Kind::any_of:
        return group(index);
      case MaskNode::Kind::relation:
        return relation(code_.relations[static_cast<std::size_t>(node.index)]);
      case MaskNode::Kind::uniform: {
        const bool holds = (slots_[node.index].integer != 0) != node.negated;
        return MaskSets(plan::all_keys_if(holds, holds));
      }
      case MaskNode::Kind::row:
        return MaskSets(node.negated
                            ? plan::all_keys_if(!rows_.every[node.index], !rows_.any[node.index])
                            : plan::all_keys_if(rows_.any[node.index], rows_.every[node.index]));
      default:
        return MaskSets(plan::all_keys_if(true, false));
    }
  }

 private:
  MaskSets group(int index) const {
    const MaskNode& parent = code_.nodes[static_cast<std::size_t>(index)];
    MaskSets sets = node(index + 1);
    for (int child = end_of(index + 1); child < parent.end; child = end_of(child)) {
      sets = parent.kind == MaskNode::Kind::all_of ? plan::all_of(sets, node(child))
                                                   : plan::any_of(sets, node(child));
    }
    return sets;
  }

  int end_of(int index) const { return code_.nodes[static_cast<std::size_t>(index)].end; }

  MaskSets relation(const MaskRelation& relation) const {
    const Offset offset = offset_of(relation, queries_, slots_, rows_);
    switch (relation.kind) {
      case MaskRelation::Kind::le:
        return MaskSets(plan::at_most_zero(relation.kv, offset));
      case MaskRelation::Kind::eq:
        return MaskSets(plan::equal_to_zero(relation.kv, offset));
      default:
        return plan::unequal_to_zero(relation.kv, offset);
    }
  }

  const MaskAnalysis::Code& code_;
  const QueryRange& queries_;
  const Scalar* slots_;
  const RowValues& rows_;
};

// The sides of a mask that is a band; else none.
std::vector<BandSide> band_sides(const MaskAnalysis::Code& code) {
  // Products with positions then stay far from the ends of int64.
  constexpr std::int64_t kMaxSlope = 1 << 10;
  std::vector<BandSide> sides;
  for (const MaskNode& node : code.nodes) {
    if (node.kind == MaskNode::Kind::all_of) continue;
    if (node.kind != MaskNode::Kind::relation) return {};
    const MaskRelation& relation = code.relations[static_cast<std::size_t>(node.index)];
    const PositionTerm& kv = relation.kv;
    if (relation.kind != MaskRelation::Kind::le || kv.size != 1 || kv.shift != 0 ||
        (kv.coefficient != 1 && kv.coefficient != -1) || !relation.uniforms.empty() ||
        !relation.rows.empty() || relation.constant > kMaxPosition ||
        relation.constant < kMinPosition) {
      return {};
    }
    BandSide side{kv.coefficient == 1, 0, static_cast<std::int64_t>(relation.constant)};
    for (const PositionTerm& term : relation.queries) {
      if (term.size != 1 || term.shift != 0 || term.coefficient > kMaxSlope ||
          term.coefficient < -kMaxSlope) {
        return {};
      }
      side.slope += term.coefficient;
    }
    // kv + rest <= 0 is kv <= -rest; -kv + rest <= 0 is kv >= rest.
    if (side.upper) side = {true, -side.slope, -side.constant};
    sides.push_back(side);
  }
  return sides;
}

}  // namespace

MaskAnalysis::MaskAnalysis(const Variant& variant) {
  if (!variant.mask.defined()) return;
  auto code = std::make_shared<Code>();
  const bool closed = compile_mask(variant, *code);
  class_ = !closed            ? MaskClass::elementwise
           : code->has_rows() ? MaskClass::row_bounds
                              : MaskClass::closed_form;
  one_interval_ = code->one_interval();
  band_ = band_sides(*code);
  code_ = std::move(code);
}

MaskRanges MaskAnalysis::ranges(const QueryRange& queries, const Bindings& bindings) const {
  MaskRanges result;
  if (queries.empty()) {
    result.exact = true;
    return result;
  }
  if (code_ == nullptr) {
    result.needed = result.full = IntervalSet::all();
    result.exact = true;
    return result;
  }
  if (is_band()) {
    const plan::MaskInterval found = band(queries.q_pos_min, queries.q_pos_max);
    result.needed = IntervalSet::of(found.needed.begin, found.needed.end);
    result.full = IntervalSet::of(found.full.begin, found.full.end);
    result.exact = same_set(result.needed, result.full);
    return result;
  }
  const std::int64_t heads =
      code_->uses_head ? queries.q_head_end - queries.q_head_begin : std::int64_t{1};
  if (heads > plan::kMaxMaskHeads) {
    result.needed = IntervalSet::all();
    return result;
  }
  Scalar slots[ScalarCode::kMaxSlots];
  RowValues rows;
  MaskSets sets;
  for (std::int64_t head = 0; head < heads; ++head) {
    const RowContext row{.q_pos = 0,
                         .q_head = queries.q_head_begin + head,
                         .kv_head = queries.kv_head,
                         .batch = queries.batch,
                         .q_len = queries.q_len,
                         .kv_len = queries.kv_len,
                         .q_index = 0,
                         .q_begin = queries.q_begin};
    code_->uniforms.run(row, bindings, slots);
    if (code_->has_rows()) evaluate_rows(*code_, queries, row, bindings, slots, rows);
    const Evaluator evaluator(*code_, queries, slots, rows);
    const MaskSets of_head = evaluator.node(0);
    sets = head == 0 ? of_head : plan::with_head(sets, of_head);
  }
  // full is within what every query sees and needed covers what any does: equal, both are exact.
  return sets.ranges();
}

}  // namespace tilewright
