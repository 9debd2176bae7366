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

#include "plan/cuts.h"
#include "plan/folding.h"
#include "plan/level_rows.h"
#include "plan/page_check.h"

namespace tw {

// Which array of status words is this update's. Thread 0.
TW_DEVICE i32 take_turn(const plan::StatusMemory& status) {
  const u64 before = atomic_add_64<u64>(reinterpret_cast<u64*>(status.blocks), 1);
  return static_cast<i32>(before / static_cast<u64>(num_blocks()) % 2);
}

template <typename Blocks>
TW_DEVICE void make_part(PartMaker& maker, i32 turn, const Blocks& blocks) {
  if (maker.view().token_levels == nullptr) {
    read_request_rows(maker, turn);
  } else {
    read_level_rows(maker, turn);
    fold_levels(maker);
  }
  measure_rows(maker, blocks);
  lay_out_sections(maker, blocks);
  find_cuts(maker, blocks);
  list_splits(maker);
}

TW_DEVICE void copy_records(void* to, const void* from, i32 bytes) {
  if (to == from) return;
#pragma unroll 1
  for (i32 i = thread_id(); i < bytes / 16; i += num_threads()) {
    store_16(static_cast<Bytes16*>(to) + i, load_16(static_cast<const Bytes16*>(from) + i));
  }
}

// Copies what is worked on in shared memory to the plan.
TW_DEVICE void write_part(PartMaker& maker) {
  const plan::View& to = maker.part.view;
  const plan::Header& header = maker.header();
  static_assert(sizeof(plan::Row) % 16 == 0 && sizeof(plan::Request) % 16 == 0);
  copy_records(to.schedule.rows, maker.rows, header.num_rows * static_cast<i32>(sizeof(plan::Row)));
  copy_records(to.requests, maker.view().requests,
               header.num_requests * static_cast<i32>(sizeof(plan::Request)));
  if (thread_id() == 0) {
    *to.schedule.header = header;
    to.schedule.header->status_turn = maker.memory.turn;
  }
}

template <int kParts>
TW_DEVICE PartMaker start_part(const plan::UpdateParams<kParts>& params) {
  auto& memory = *reinterpret_cast<plan::UpdateMemory*>(shared_memory());
  const plan::PartInput& part = params.parts[block_id()];
  // Thread by thread: the parameters are read by words anyway.
  const auto* from = reinterpret_cast<const u32*>(&part.view);
  auto* to = reinterpret_cast<u32*>(&memory.view);
#pragma unroll 1
  for (i32 i = thread_id(); i < static_cast<i32>(sizeof(plan::View) / 4); i += num_threads()) {
    to[i] = from[i];
  }
  sync_block();
  const i32 most = params.limits.rows;
  const bool fits = plan::rows_fit_shared(most);
  plan::Row* const rows = fits ? memory.rows() : part.rows_before;
  plan::Row* const other_rows = fits ? rows + most : part.view.schedule.rows;
  plan::Request* const shared_requests =
      reinterpret_cast<plan::Request*>(memory.rows() + (fits ? 2 * most : 0));
  auto* const cuts = reinterpret_cast<plan::Cut*>(shared_requests + (fits ? most : 0));
  auto* const tail_costs =
      reinterpret_cast<std::int64_t*>(cuts + part.view.schedule.config.workers + 1);
  if (thread_id() == 0) {
    memory.view.schedule.header = &memory.header;
    memory.view.schedule.rows = rows;
    if (fits) memory.view.requests = shared_requests;
  }
  sync_block();
  return {params.batch,      params.limits, part,       params.status, memory,
          BlockScan(memory), rows,          other_rows, cuts,          tail_costs};
}

template <int kParts>
TW_DEVICE void check_pages(const plan::UpdateParams<kParts>& params) {
  auto& memory = *reinterpret_cast<plan::UpdateMemory*>(shared_memory());
  if (thread_id() == 0) memory.turn = take_turn(params.status);
  sync_block();
  const i32 words = params.limits.requests + 1;
  const i32 threads = (num_blocks() - kParts) * num_threads();
  const i32 thread = (block_id() - kParts) * num_threads() + thread_id();
  u32* const next = params.status.words + (memory.turn ^ 1) * words;
#pragma unroll 1
  for (i32 i = thread; i < words; i += threads) next[i] = 0;
#pragma unroll 1
  for (i32 i = 0; i < kParts; ++i) {
    PageCheck check(params.batch, params.limits, params.parts[i],
                    params.status.words + memory.turn * words, thread / kWarpSize,
                    threads / kWarpSize);
#pragma unroll 1
    for (i32 level = 0; level < params.parts[i].view.num_levels; ++level) check.check_level(level);
  }
}

// Launched with more blocks than parts.
template <typename... Masks, int kParts>
TW_DEVICE void update_plan(const plan::UpdateParams<kParts>& params) {
  wait_for_previous_kernel();
  let_next_kernel_start();
  if (block_id() >= kParts) {
    check_pages(params);
    return;
  }
  // On its way while the batch is read.
  const i32 turn = thread_id() == 0 ? take_turn(params.status) : 0;
  PartMaker maker = start_part(params);
  make_part(maker, turn, TileBlocks<Masks...>{maker.view(), maker.part});
  sync_block();
  write_part(maker);
}

}  // namespace tw
