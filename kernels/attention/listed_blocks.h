// SPDX-License-Identifier: Apache-2.0
// The blocks of keys that a tile needs where a BlockStructure lists them. Whether a block is listed
// takes searches in several lists, which wait for memory one after the other; so all threads ask,
// once a tile, and leave the answers in the plan's workspace.
#pragma once

#include "arch/thread.h"
#include "attention/params.h"
#include "attention/shape.h"
#include "plan/tile_ranges.h"

namespace tw {

// In shared memory.
struct ListedBlocks {
  plan::TileRanges all;  // the mask's spans and the lists
  // [p.most_blocks] of this block of threads: 2 * block, and 1 more where every row attends to all
  // its keys.
  i32* needed;
  i32 counts[2][Shape::kWarps];

  TW_DEVICE i32 nth(i32 n) const { return needed[n] >> 1; }
  TW_DEVICE bool is_full(i32 n) const { return (needed[n] & 1) != 0; }

  // By all threads, behind a barrier behind `all`; ends with one. Returns how many are needed.
  TW_DEVICE i32 list(const AttentionParams& p, i32 kv_len) {
    i32* const to = p.needed_blocks + static_cast<i64>(block_id()) * p.most_blocks;
    if (thread_id() == 0) needed = to;
    const i32 warp = warp_id();
    i32 count = 0;
    i32 turn = 0;
#pragma unroll 1
    for (i32 span = 0; span < all.num_spans; ++span) {
      const i32 end = all.spans[span].end;
#pragma unroll 1
      for (i32 base = all.spans[span].begin; base < end; base += Shape::kThreads) {
        const i32 block = base + thread_id();
        const bool is_needed = block < end && all.is_listed(block);
        const u32 votes = ballot(is_needed);
        // Two arrays in turn: when one is written again, all have met at the other's barrier.
        if (lane_id() == 0) counts[turn][warp] = count_bits(votes);
        sync_block();
        i32 before = count + count_bits(votes & ((1U << lane_id()) - 1));
#pragma unroll
        for (i32 w = 0; w < Shape::kWarps; ++w) {
          const i32 of_warp = counts[turn][w];
          before += w < warp ? of_warp : 0;
          count += of_warp;
        }
        turn ^= 1;
        if (!is_needed) continue;
        const i32 begin = block * Shape::kBlock;
        const bool full =
            begin + Shape::kBlock <= kv_len && all.is_full(begin, begin + Shape::kBlock);
        to[before] = 2 * block + (full ? 1 : 0);
      }
    }
    sync_block();
    return count;
  }
};

}  // namespace tw
