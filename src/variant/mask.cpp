// SPDX-License-Identifier: Apache-2.0
#include "variant/mask.h"

#include <algorithm>

#include "variant/interval_set.h"
#include "variant/mask_code.h"

namespace tilewright {
namespace {

constexpr std::int64_t kMaxHeads = 128;  // looped over; beyond, nothing is claimed

// Bounds of a relation's part that does not depend on the key, over the queries of a range.
struct Offset {
  Int128 low = 0;
  Int128 high = 0;
};

Int128 term_at(const PositionTerm& term, std::int64_t position) {
  const std::int64_t shifted = position + term.shift;
  return Int128{term.coefficient} * (term.size == 1 ? shifted : floor_quotient(shifted, term.size));
}

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
      for (const PositionTerm& term : relation.queries) offset += term_at(term, row.q_pos);
      Offset& bounds = values.relations[i];
      bounds = token == 0 ? Offset{offset, offset}
                          : Offset{std::min(bounds.low, offset), std::max(bounds.high, offset)};
    }
    for (std::size_t i = 0; i < conditions; ++i) {
      const bool holds = slots[code.row_conditions[i]].integer != 0;
      values.any[i] = holds || (token > 0 && values.any[i]);
      values.every[i] = holds && (token == 0 || values.every[i]);
    }
  }
  for (std::size_t i = 0; i < relations; ++i) {
    const MaskRelation& relation = code.relations[static_cast<std::size_t>(code.row_relations[i])];
    const Int128 uniform = relation.constant + sum_of(relation.uniforms, uniforms);
    values.relations[i].low += uniform;
    values.relations[i].high += uniform;
  }
}

Offset offset_of(const MaskRelation& relation, const QueryRange& queries, const Scalar* slots,
                 const RowValues& rows) {
  if (relation.row_relation >= 0) return rows.relations[relation.row_relation];
  const Int128 uniform = relation.constant + sum_of(relation.uniforms, slots);
  Offset offset{uniform, uniform};
  for (const PositionTerm& term : relation.queries) {
    const Int128 first = term_at(term, queries.q_pos_min);
    const Int128 last = term_at(term, queries.q_pos_max);
    offset.low += std::min(first, last);
    offset.high += std::max(first, last);
  }
  return offset;
}

// A bound on a key term, where bounds beyond all positions need not be told apart.
std::int64_t clamped(Int128 bound) {
  constexpr Int128 kLimit = Int128{1} << 43;
  return static_cast<std::int64_t>(std::clamp(bound, -kLimit, kLimit));
}

// Keys with coefficient * term(key) <= bound.
Interval keys_at_most(const PositionTerm& kv, Int128 bound) {
  const auto key_at = [&](std::int64_t term) {  // the first key whose term is at least `term`
    return std::clamp(Int128{term} * kv.size - kv.shift, Int128{kMinPosition},
                      Int128{kMaxPosition});
  };
  if (kv.coefficient > 0) {
    const Int128 most = kv.coefficient == 1 ? bound : floor_quotient<Int128>(bound, kv.coefficient);
    return {kMinPosition, static_cast<std::int64_t>(key_at(clamped(most + 1)))};
  }
  const Int128 least =
      kv.coefficient == -1 ? -bound : -floor_quotient<Int128>(bound, -kv.coefficient);
  return {static_cast<std::int64_t>(key_at(clamped(least))), kMaxPosition};
}

// Keys with low <= coefficient * term(key) <= high.
Interval keys_between(PositionTerm kv, Int128 low, Int128 high) {
  const Interval upper = keys_at_most(kv, high);
  kv.coefficient = -kv.coefficient;
  const Interval lower = keys_at_most(kv, -low);
  return {std::max(upper.begin, lower.begin), std::min(upper.end, lower.end)};
}

IntervalSet all_if(bool condition) {
  return condition ? IntervalSet::all() : IntervalSet::none();
}

class Evaluator {
 public:
  Evaluator(const MaskAnalysis::Code& code, const QueryRange& queries, const Scalar* slots,
            const RowValues& rows)
      : code_(code), queries_(queries), slots_(slots), rows_(rows) {}

  void node(int index, IntervalSet& needed, IntervalSet& full) const {
    const MaskNode& node = code_.nodes[static_cast<std::size_t>(index)];
    switch (node.kind) {
      case MaskNode::Kind::all_of:
      case MaskNode::Kind::any_of:
        group(index, needed, full);
        break;
      case MaskNode::Kind::relation:
        relation(code_.relations[static_cast<std::size_t>(node.index)], needed, full);
        break;
      case MaskNode::Kind::uniform:
        needed = full = all_if((slots_[node.index].integer != 0) != node.negated);
        break;
      case MaskNode::Kind::row:
        needed = all_if(node.negated ? !rows_.every[node.index] : rows_.any[node.index]);
        full = all_if(node.negated ? !rows_.any[node.index] : rows_.every[node.index]);
        break;
      case MaskNode::Kind::unknown:
        needed = IntervalSet::all();
        full = IntervalSet::none();
        break;
    }
  }

 private:
  void group(int index, IntervalSet& needed, IntervalSet& full) const {
    const MaskNode& parent = code_.nodes[static_cast<std::size_t>(index)];
    const bool all_of = parent.kind == MaskNode::Kind::all_of;
    node(index + 1, needed, full);
    for (int child = end_of(index + 1); child < parent.end; child = end_of(child)) {
      IntervalSet child_needed;
      IntervalSet child_full;
      node(child, child_needed, child_full);
      if (all_of) {
        needed = intersection(needed, child_needed, Rounding::outward);
        full = intersection(full, child_full, Rounding::inward);
      } else {
        needed = set_union(needed, child_needed, Rounding::outward);
        full = set_union(full, child_full, Rounding::inward);
      }
    }
  }

  int end_of(int index) const { return code_.nodes[static_cast<std::size_t>(index)].end; }

  void relation(const MaskRelation& relation, IntervalSet& needed, IntervalSet& full) const {
    const Offset offset = offset_of(relation, queries_, slots_, rows_);
    if (relation.kv.coefficient == 0) return without_key(relation.kind, offset, needed, full);
    if (relation.kind == MaskRelation::Kind::le) {
      const Interval any = keys_at_most(relation.kv, -offset.low);
      const Interval every = keys_at_most(relation.kv, -offset.high);
      needed = IntervalSet::of(any.begin, any.end);
      full = IntervalSet::of(every.begin, every.end);
      return;
    }
    const bool one_value = offset.low == offset.high;
    const Interval equal = keys_between(relation.kv, -offset.high, -offset.low);
    if (relation.kind == MaskRelation::Kind::eq) {
      needed = IntervalSet::of(equal.begin, equal.end);
      full = one_value ? needed : IntervalSet::none();
    } else {
      full = outside(equal.begin, equal.end);
      needed = one_value ? full : IntervalSet::all();
    }
  }

  static void without_key(MaskRelation::Kind kind, const Offset& offset, IntervalSet& needed,
                          IntervalSet& full) {
    const bool may_be_zero = offset.low <= 0 && offset.high >= 0;
    const bool is_zero = offset.low == 0 && offset.high == 0;
    switch (kind) {
      case MaskRelation::Kind::le:
        needed = all_if(offset.low <= 0);
        full = all_if(offset.high <= 0);
        break;
      case MaskRelation::Kind::eq:
        needed = all_if(may_be_zero);
        full = all_if(is_zero);
        break;
      case MaskRelation::Kind::ne:
        needed = all_if(!is_zero);
        full = all_if(!may_be_zero);
        break;
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
  band_ = band_sides(*code);
  code_ = std::move(code);
}

MaskRanges MaskAnalysis::ranges(const QueryRange& queries, const Bindings& bindings) const {
  MaskRanges result;
  if (queries.q_pos_min > queries.q_pos_max || queries.tokens() <= 0 ||
      queries.q_head_begin >= queries.q_head_end) {
    result.exact = true;
    return result;
  }
  if (code_ == nullptr) {
    result.needed = result.full = IntervalSet::all();
    result.exact = true;
    return result;
  }
  if (is_band()) {
    const Band found = band(queries.q_pos_min, queries.q_pos_max);
    result.needed = IntervalSet::of(found.any.begin, found.any.end);
    result.full = IntervalSet::of(found.every.begin, found.every.end);
    result.exact = same_set(result.needed, result.full);
    return result;
  }
  const std::int64_t heads =
      code_->uses_head ? queries.q_head_end - queries.q_head_begin : std::int64_t{1};
  if (heads > kMaxHeads) {
    result.needed = IntervalSet::all();
    return result;
  }
  Scalar slots[ScalarCode::kMaxSlots];
  RowValues rows;
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
    if (head == 0) {
      evaluator.node(0, result.needed, result.full);
    } else {
      IntervalSet needed;
      IntervalSet full;
      evaluator.node(0, needed, full);
      result.needed = set_union(result.needed, needed, Rounding::outward);
      result.full = intersection(result.full, full, Rounding::inward);
    }
  }
  // full is within what every query sees and needed covers what any does: equal, both are exact.
  result.exact = same_set(result.needed, result.full);
  return result;
}

}  // namespace tilewright
