// SPDX-License-Identifier: Apache-2.0
#include "attention/schedule_stats.h"

#include <algorithm>

namespace tilewright {
namespace {

std::int64_t count_split_tiles(const plan::Schedule& schedule) {
  const plan::Header& header = *schedule.header;
  std::int64_t count = 0;
  std::int32_t row = header.num_a_rows;  // splits and rows are both in the order of items
  for (std::int32_t i = 0; i < header.num_splits; ++i) {
    const std::int64_t item = schedule.splits[i].item - header.tail_items;
    if (item < 0) {
      count += schedule.rows[plan::b_item(schedule, schedule.splits[i].item).row].heads;
      continue;
    }
    while (row + 1 < header.num_rows && schedule.rows[row + 1].tiles_before <= item) ++row;
    count += schedule.rows[row].heads;
  }
  return count;
}

}  // namespace

std::int32_t add_tile(PlanStats& stats, const cpu::TileCounts& counts, const AttentionSpec& spec,
                      std::int64_t times) {
  const std::int64_t key_bytes = spec.head_dim * dtype_bytes(spec.kv_dtype) +
                                 spec.value_dim() * dtype_bytes(spec.value_dtype());
  stats.tiles += times;
  stats.blocks += times * counts.blocks;
  stats.full_blocks += times * counts.full_blocks;
  stats.skipped_blocks += times * counts.skipped_blocks;
  stats.kv_bytes += times * counts.keys * key_bytes;
  return static_cast<std::int32_t>(counts.blocks);
}

void add(PlanStats& stats, const PlanStats& more, std::int64_t times) {
  stats.tiles += times * more.tiles;
  stats.blocks += times * more.blocks;
  stats.full_blocks += times * more.full_blocks;
  stats.skipped_blocks += times * more.skipped_blocks;
  stats.kv_bytes += times * more.kv_bytes;
}

void count_shares(const plan::Schedule& schedule, PlanStats& stats) {
  stats.split_tiles = count_split_tiles(schedule);
  std::int64_t largest = 0;
  for (std::int32_t worker = 0; worker < schedule.header->workers; ++worker) {
    largest = std::max(largest, plan::share_cost(schedule, worker));
  }
  if (largest > 0) {
    stats.balance = static_cast<double>(schedule.header->b_cost) / schedule.header->workers /
                    static_cast<double>(largest);
  }
}

PlanStats stats_of(const cpu::AttentionPlan& plan, const AttentionImpl& attention) {
  const plan::Schedule& schedule = plan.schedule;
  const plan::Header& header = *schedule.header;
  const bool differ = schedule.config.heads_differ != 0;
  PlanStats stats;
  for (std::int32_t i = 0; i < header.num_rows; ++i) {
    const plan::Row& row = schedule.rows[i];
    for (std::int32_t head = 0; head < (differ ? schedule.config.num_kv_heads : 1); ++head) {
      for (std::int32_t tile = 0; tile < row.tiles; ++tile) {
        add_tile(stats, cpu::count_tile(plan, attention.variant.mask, row, head, tile),
                 attention.spec, differ ? 1 : schedule.config.num_kv_heads);
      }
    }
  }
  // Folded rows have left their segments to others.
  stats.folded_rows = header.num_segments - header.num_rows;
  count_shares(schedule, stats);
  return stats;
}

}  // namespace tilewright
