// SPDX-License-Identifier: Apache-2.0
#include "attention/level_folding.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstdlib>

namespace tilewright {
namespace {

// The rows of each level stand one after the other in the plan, in the order of their query tokens,
// and have the segments of the same numbers. Folded ones are marked by a negative q_len.
class Folding {
 public:
  explicit Folding(cpu::AttentionPlan& plan)
      : plan_(plan), config_(plan.schedule.config), rows_(plan.schedule.rows) {
    const std::int32_t count = plan.schedule.header->num_rows;
    for (std::int32_t i = 0; i < count; ++i) end_[rows_[i].level] = i + 1;
    for (int level = 1; level < plan.num_levels; ++level) {
      end_[level] = std::max(end_[level], end_[level - 1]);
    }
  }

  std::int32_t fold() {
    std::int32_t folded = 0;
    for (int level = plan_.num_levels - 2; level >= 0; --level) {
      if (plan_.levels[level].q_rows != nullptr) continue;
      for (int inner = level + 1; inner < plan_.num_levels; ++inner) cursor_[inner] = begin(inner);
      for (std::int32_t i = begin(level); i < end_[level]; ++i) {
        if (!find_children(rows_[i]) || shared_is_cheaper(rows_[i])) continue;
        fold_into_children(rows_[i]);
        ++folded;
      }
    }
    return folded;
  }

 private:
  std::int32_t begin(int level) const { return level == 0 ? 0 : end_[level - 1]; }

  // The outermost row of a level inside `level` whose query tokens begin at `token`; null: none.
  plan::Row* row_at(int level, std::int32_t token) {
    for (int inner = level + 1; inner < plan_.num_levels; ++inner) {
      if (plan_.levels[inner].q_rows != nullptr) continue;
      std::int32_t& at = cursor_[inner];
      while (at < end_[inner] && (rows_[at].q_begin < token || rows_[at].q_len < 0)) ++at;
      if (at < end_[inner] && rows_[at].q_begin == token) return rows_ + at;
    }
    return nullptr;
  }

  // Calls visit(child) for the rows below `row`, outermost ones; false if one is not as it must be.
  template <typename Visit>
  bool over_children(const plan::Row& row, const Visit& visit) {
    const std::array<std::int32_t, cpu::kMaxLevels> start = cursor_;
    const std::int32_t end = row.q_begin + row.q_len;
    for (std::int32_t token = row.q_begin; token < end;) {
      plan::Row* child = row_at(row.level, token);
      if (child == nullptr || child->q_begin + child->q_len > end ||
          child->kv_pos != row.kv_pos + row.kv_len) {
        return false;
      }
      // A folded row between the two must not have children elsewhere: its segment has one parent.
      const plan::Row& between = rows_[outermost(*child, row)];
      if (between.q_begin < row.q_begin || between.q_begin + std::abs(between.q_len) > end) {
        return false;
      }
      token += child->q_len;
      visit(*child);
    }
    cursor_ = start;
    return true;
  }

  // The segment of a child's chain that is, or will be, the one below `row`'s.
  std::int32_t outermost(const plan::Row& child, const plan::Row& row) const {
    std::int32_t segment = child.segment;
    while (plan_.segments[segment].parent >= 0 && plan_.segments[segment].parent != row.segment) {
      segment = plan_.segments[segment].parent;
    }
    return segment;
  }

  bool find_children(const plan::Row& row) {
    child_tiles_ = 0;
    return over_children(
        row, [&](const plan::Row& child) { child_tiles_ += plan::tiles_of(config_, child.q_len); });
  }

  bool shared_is_cheaper(const plan::Row& row) const {
    if (plan_.batch_invariant) return false;
    return plan::sharing_is_cheaper(config_, row, child_tiles_);
  }

  void fold_into_children(plan::Row& row) {
    over_children(row, [&](plan::Row& child) {
      // Children that share an inner segment find their chain extended already.
      plan_.segments[outermost(child, row)].parent = row.segment;
      child.kv_len += row.kv_len;
      child.kv_pos = row.kv_pos;
    });
    const auto others = static_cast<std::uint8_t>(~(1U << row.level));
    for (std::int32_t i = 0; i < row.q_len; ++i) plan_.token_levels[row.q_begin + i] &= others;
    row.q_len = -row.q_len;
  }

  cpu::AttentionPlan& plan_;
  const plan::Config& config_;
  plan::Row* rows_;
  std::array<std::int32_t, cpu::kMaxLevels> end_{};
  std::array<std::int32_t, cpu::kMaxLevels> cursor_{};
  std::int64_t child_tiles_ = 0;
};

}  // namespace

std::int32_t fold_levels(cpu::AttentionPlan& plan) {
  if (plan.token_levels == nullptr) return 0;
  plan::Header& header = *plan.schedule.header;
  const std::int32_t folded = Folding(plan).fold();
  plan::Row* rows = plan.schedule.rows;
  header.num_rows =
      static_cast<std::int32_t>(std::remove_if(rows, rows + header.num_rows,
                                               [](const plan::Row& row) { return row.q_len < 0; }) -
                                rows);
  const bool joins = std::any_of(plan.token_levels, plan.token_levels + header.q_tokens,
                                 [](std::uint8_t levels) { return !std::has_single_bit(levels); });
  header.joins_levels = joins ? 1 : 0;
  return folded;
}

}  // namespace tilewright
