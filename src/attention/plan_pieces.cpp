// SPDX-License-Identifier: Apache-2.0
// The schedule unrolled, for pictures and for checks of it.
#include <algorithm>
#include <functional>
#include <queue>
#include <utility>

#include "attention/schedule_stats.h"

namespace tilewright {
namespace {

// Hands out a schedule's work to its workers, in the unit of the cost model.
class PieceList {
 public:
  PieceList(const cpu::AttentionPlan& plan, const MaskAnalysis& mask)
      : plan_(plan), schedule_(plan.schedule), mask_(mask) {}

  std::vector<PlanPiece> list() {
    const plan::Header& header = *schedule_.header;
    std::vector<std::int64_t> ends(static_cast<std::size_t>(schedule_.config.workers), 0);
    const std::int32_t shares = header.b_items > 0 ? header.workers : 0;
    for (std::int32_t worker = 0; worker < shares; ++worker) {
      ends[static_cast<std::size_t>(worker)] = add_share(worker);
    }
    // Whoever is free first takes the next item of section A.
    using Free = std::pair<std::int64_t, std::int32_t>;  // since when, worker
    std::priority_queue<Free, std::vector<Free>, std::greater<>> free;
    for (std::int32_t worker = 0; worker < schedule_.config.workers; ++worker) {
      free.emplace(ends[static_cast<std::size_t>(worker)], worker);
    }
    for (std::int64_t i = 0; i < header.a_items; ++i) {
      const auto [start, worker] = free.top();
      free.pop();
      const plan::Item item = plan::a_item(schedule_, i);
      free.emplace(add(worker, item, 0, blocks_of(item), start), worker);
    }
    std::stable_sort(pieces_.begin(), pieces_.end(),
                     [](const PlanPiece& a, const PlanPiece& b) { return a.worker < b.worker; });
    return std::move(pieces_);
  }

 private:
  std::int32_t blocks_of(const plan::Item& item) const {
    return cpu::tile_ranges(plan_, mask_, schedule_.rows[item.row], item.head, item.tile).blocks;
  }

  // A worker's share of section B, from time 0 on; returns its end.
  std::int64_t add_share(std::int32_t worker) {
    const plan::Cut& from = schedule_.cuts[worker];
    const plan::Cut& to = schedule_.cuts[worker + 1];
    std::int64_t time = 0;
    for (std::int64_t index = from.item; index < to.item || (index == to.item && to.block > 0);
         ++index) {
      const plan::Item item = plan::b_item(schedule_, index);
      const std::int32_t begin = index == from.item ? from.block : 0;
      const std::int32_t end = index == to.item ? to.block : blocks_of(item);
      time = add(worker, item, begin, end, time);
    }
    return time;
  }

  std::int64_t add(std::int32_t worker, const plan::Item& item, std::int32_t begin,
                   std::int32_t end, std::int64_t start) {
    const plan::Row& row = schedule_.rows[item.row];
    const std::int64_t cost = (begin == 0 ? schedule_.config.cost.fixed : 0) +
                              (end - begin) * plan::block_cost(schedule_.config, row, item.tile);
    PlanPiece piece;
    piece.worker = worker;
    piece.level = row.level;
    piece.row = row.index;
    piece.request = plan_.request_of(row, plan_.token_of(row, 0));
    piece.tile = item.tile;
    piece.first_block = begin;
    piece.num_blocks = end - begin;
    // Heads that are computed together stand one after the other.
    for (std::int32_t i = 0; i < row.heads; ++i) {
      piece.kv_head = item.head + i;
      piece.start = start + cost * i / row.heads;
      piece.cost = start + cost * (i + 1) / row.heads - piece.start;
      pieces_.push_back(piece);
    }
    return start + cost;
  }

  const cpu::AttentionPlan& plan_;
  const plan::Schedule& schedule_;
  const MaskAnalysis& mask_;
  std::vector<PlanPiece> pieces_;
};

}  // namespace

std::vector<PlanPiece> pieces_of(const cpu::AttentionPlan& plan, const AttentionImpl& attention) {
  return PieceList(plan, attention.variant.mask).list();
}

}  // namespace tilewright
