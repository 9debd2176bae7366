// SPDX-License-Identifier: Apache-2.0
// A mask compiled to and/or of linear relations in the positions, in negation normal form: a flat
// tree in pre-order.
#pragma once

#include <cstdint>
#include <vector>

#include "plan/half_plane.h"
#include "variant/integer.h"
#include "variant/mask.h"
#include "variant/scalar_code.h"

namespace tilewright {

using plan::PositionTerm;

struct UniformTerm {
  std::int64_t coefficient = 0;
  int slot = 0;
};

// Largest coefficient, shift and chunk size of a closed form: products with positions then fit
// Int128 by far.
inline constexpr std::int64_t kMaxCoefficient = std::int64_t{1} << 40;

// Bounds that differ from row to row; more of them count as unknown.
inline constexpr int kMaxRowRelations = 32;
inline constexpr int kMaxRowConditions = 32;

// kv + sums of query, uniform and row terms + constant, compared with 0.
struct MaskRelation {
  enum class Kind : std::uint8_t { le, eq, ne };
  Kind kind = Kind::le;
  PositionTerm kv;  // coefficient 0: it does not depend on the key
  std::vector<PositionTerm> queries;
  std::vector<UniformTerm> uniforms;
  std::vector<UniformTerm> rows;  // slots of Code::rows
  Int128 constant = 0;
  int row_relation = -1;  // with row terms: its number among those that have some
};

struct MaskNode {
  enum class Kind : std::uint8_t { all_of, any_of, relation, uniform, row, unknown };
  Kind kind = Kind::unknown;
  bool negated = false;  // uniform, row
  int index = 0;         // relation: into relations; uniform: slot; row: into row_conditions
  int end = 0;           // one past the last node of this subtree
};

struct MaskAnalysis::Code {
  std::vector<MaskNode> nodes;
  std::vector<MaskRelation> relations;
  ScalarCode uniforms;              // known for each (request, head)
  ScalarCode rows;                  // known for each (query token, head)
  std::vector<int> row_relations;   // those with row terms
  std::vector<int> row_conditions;  // slots of `rows`
  bool uses_head = false;           // some value depends on q_head

  bool has_rows() const { return !row_relations.empty() || !row_conditions.empty(); }

  // What the sets of a subtree are always like, for one head.
  enum class Shape : std::uint8_t { all_or_none, below, from, interval, other };
  Shape shape(int node = 0) const;
  bool one_interval() const { return shape() != Shape::other; }
};

// Fills `code`; true when all of the mask is of closed form (there is no unknown node).
bool compile_mask(const Variant& variant, MaskAnalysis::Code& code);

}  // namespace tilewright
