// SPDX-License-Identifier: Apache-2.0
// What a schedule is: counted for PlanStats, unrolled for Plan::pieces.
#pragma once

#include <tilewright/plan.h>

#include <vector>

#include "attention/attention_impl.h"
#include "cpu/attention_plan.h"
#include "cpu/tile_ranges.h"

namespace tilewright {

// Adds one tile, `times` times; returns its blocks.
std::int32_t add_tile(PlanStats& stats, const cpu::TileCounts& counts, const AttentionSpec& spec,
                      std::int64_t times = 1);
void add(PlanStats& stats, const PlanStats& more, std::int64_t times);

// Sets what follows from the schedule alone: split_tiles and balance.
void count_shares(const plan::Schedule& schedule, PlanStats& stats);

// All of them, from a plan's records: asks the mask of every tile.
PlanStats stats_of(const cpu::AttentionPlan& plan, const AttentionImpl& attention);
std::vector<PlanPiece> pieces_of(const cpu::AttentionPlan& plan, const AttentionImpl& attention);

}  // namespace tilewright
