// SPDX-License-Identifier: Apache-2.0
// Makes the plans of one or several attentions for a batch that only the device knows: one block an
// attention writes its records, the others check page ids. The integers are those of the host's
// scheduler. No block waits for another.
//
// A kernel of this is one line, in which Masks are the attentions' masks, and PartInput::mask says
// which of them is whose:
//   TW_KERNEL TW_LAUNCH_BOUNDS(512, 1) tilewright_update_plan(TW_PARAMETER UpdateParams<2> params)
//   {
//     tw::update_plan<tw::MaskA, tw::MaskB>(params);
//   }
#pragma once

#include "plan/block_check.h"
#include "plan/cuts.h"
#include "plan/folding.h"
#include "plan/level_rows.h"
#include "plan/page_check.h"

namespace tw {

// Counts the block. Whose turn it is follows, but nothing should wait for it early: see turn_of.
TW_DEVICE u32 count_block(const plan::StatusMemory& status) {
  u32 count = 0;
  if (thread_id() == 0) {
    count = atomic_count(status.blocks, 2 * static_cast<u32>(num_blocks()) - 1);
  }
  return count;
}

// The block's shared memory. What makes its address is a special register, which takes long to
// read, at each use.
TW_DEVICE char* kept_shared_memory() {
  char* const memory = kept(shared_memory());
  take_for_shared(memory);
  return memory;
}

// What needs parameters and shared memory only.
template <int kParts>
TW_DEVICE PartMaker start_part(const plan::UpdateParams<kParts>& params) {
  char* const shared = kept_shared_memory();
  auto& memory = *reinterpret_cast<plan::UpdateMemory*>(shared);
  const plan::PartInput& part = params.parts[kParts == 1 ? 0 : block_id()];
  // What is behind it is aligned too.
  constexpr i32 kUnits = (sizeof(plan::View) + 15) / 16;
  const auto* from = reinterpret_cast<const Bytes16*>(&part.view);
  auto* to = reinterpret_cast<Bytes16*>(&memory.view);
#pragma unroll 1
  for (i32 i = thread_id(); i < kUnits; i += num_threads()) to[i] = from[i];
  sync_block();
  const plan::UpdateArrays& arrays = part.arrays;
  plan::Request* const requests = arrays.requests.in(shared);
  const bool keeps_rows =
      arrays.level_rows.is_shared && (part.has_long_rows || part.view.token_levels != nullptr);
  plan::Row* const work_rows = keeps_rows ? arrays.level_rows.in(shared) : part.view.schedule.rows;
  // Seen by others behind the next barrier.
  if (thread_id() == 0) {
    memory.header = {};
    memory.view.schedule.header = &memory.header;
    memory.view.schedule.rows = work_rows;
    memory.view.requests = requests;
    memory.view.token_requests = nullptr;  // written here, for others
    if (part.view.token_levels != nullptr) {
      memory.view.token_keys = arrays.token_keys.in(shared);
      memory.view.token_levels = arrays.token_levels.in(shared);
    }
  }
  return {params.batch,
          params.limits,
          part,
          params.status,
          memory,
          BlockScan(memory),
          arrays.tail_costs.in(shared),
          arrays.cost_before.in(shared),
          arrays.short_rows.in(shared),
          requests,
          arrays.short_spans.in(shared),
          arrays.first_tile.in(shared),
          arrays.fold.in(shared),
          arrays.level_rows.in(shared),
          work_rows,
          arrays.tile_costs.in(shared)};
}

template <typename Blocks>
TW_DEVICE void make_part(PartMaker& maker, const FirstWords& first, const Blocks& blocks) {
  read_requests(maker, first);
  if (!maker.is_plain()) {
    sync_block();
    read_level_rows(maker);
    Folding(maker).fold();
  }
  const LineSums sums = line_up(maker, blocks);
  plan::Header& header = maker.header();
  if (thread_id() == 0) {
    header.num_rows = sums.rows;
    if (maker.is_plain()) header.num_segments = sums.rows;
    header.b_items = sums.items;
    header.b_cost = sums.cost;
  }
  std::int64_t b_cost = sums.cost;
  bool uneven = sums.uneven;
  if (sums.long_rows > 0) {
    LongRows<Blocks>(maker, blocks, sums.long_rows).measure();
    Sections sections(maker, sums);
    sections.lay_out();
    b_cost = header.b_cost;
    uneven = sections.are_uneven();
  }
  Cuts cuts(maker, b_cost, uneven, sums.long_rows > 0);
  cuts.find();
}

// Page ids and, with kLists, block structures.
template <bool kLists, int kParts>
TW_DEVICE void check_tables(const plan::UpdateParams<kParts>& params) {
  auto& memory = *reinterpret_cast<plan::UpdateMemory*>(shared_memory());
  const u32 count = count_block(params.status);
  const i32 words = params.limits.requests + 1;
  const i32 threads = (num_blocks() - kParts) * num_threads();
  const i32 thread = (block_id() - kParts) * num_threads() + thread_id();
  // Whose words are this update's is known late: only then is anything marked.
  bool marks = false;
#pragma unroll 1
  while (true) {
    bool bad = false;
    u32* const status = marks ? params.status.words + memory.turn * words : nullptr;
#pragma unroll 1
    for (i32 i = 0; i < kParts; ++i) {
      PageCheck check(params.batch, params.limits, params.parts[i], status, thread / kWarpSize,
                      threads / kWarpSize);
#pragma unroll 1
      for (i32 level = 0; level < params.parts[i].view.num_levels; ++level) {
        bad = check.check_level(level) || bad;
      }
      if constexpr (kLists) {
        const BlockCheck lists(params.batch, params.limits, params.parts[i].view.blocks, status,
                               thread / kWarpSize, threads / kWarpSize);
        bad = lists.check() || bad;
      }
    }
    if (marks) return;
    if (thread_id() == 0) memory.turn = turn_of(count);
    marks = any_of_block(bad);
    u32* const next = params.status.words + (memory.turn ^ 1) * words;
#pragma unroll 1
    for (i32 i = thread; i < words; i += threads) next[i] = 0;
    if (!marks) return;
  }
}

template <bool kLists, typename... Masks, int kParts>
TW_DEVICE void update_parts(const plan::UpdateParams<kParts>& params) {
  if (block_id() >= kParts) {
    wait_for_previous_kernel();
    let_next_kernel_start();
    check_tables<kLists>(params);
    return;
  }
  PartMaker maker = start_part(params);
  const RequestPlace place = place_of_request(maker, thread_id());
  wait_for_previous_kernel();
  FirstWords first;
  first.count = count_block(params.status);
  first.request = load_request(maker, place, thread_id());
  first.live = live_requests(params.batch);
  let_next_kernel_start();
  make_part(maker, first, TileBlocks<kLists, Masks...>{maker.view(), maker.part});
}

// Launched with more blocks than parts.
template <typename... Masks, int kParts>
TW_DEVICE void update_plan(const plan::UpdateParams<kParts>& params) {
  update_parts<false, Masks...>(params);
}
// Attentions may have block structures.
template <typename... Masks, int kParts>
TW_DEVICE void update_listed_plan(const plan::UpdateParams<kParts>& params) {
  update_parts<true, Masks...>(params);
}

}  // namespace tw
