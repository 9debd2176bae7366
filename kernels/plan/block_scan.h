// SPDX-License-Identifier: Apache-2.0
// Prefix sums and totals over the threads of a block, one barrier each.
#pragma once

#include "arch/memory.h"
#include "arch/thread.h"
#include "plan/update_memory.h"

namespace tw {

using tilewright::plan::Sums;

TW_DEVICE Sums operator+(const Sums& a, const Sums& b) {
  return {a.cost + b.cost, a.items + b.items, a.count + b.count};
}
TW_DEVICE Sums operator-(const Sums& a, const Sums& b) {
  return {a.cost - b.cost, a.items - b.items, a.count - b.count};
}

// The sum of the values of this lane and those before it; of the first `lanes` of them. A loop: its
// instructions are fetched once.
TW_DEVICE Sums scan_warp(Sums value, i32 lanes = kWarpSize) {
  const i32 lane = lane_id();
#pragma unroll 1
  for (i32 step = 1; step < lanes; step *= 2) {
    const Sums below = {shuffle_up(value.cost, step), shuffle_up(value.items, step),
                        shuffle_up(value.count, step)};
    if (lane >= step) value = value + below;
  }
  return value;
}
TW_DEVICE Sums shuffle(const Sums& value, i32 lane) {
  return {shuffle(value.cost, lane), shuffle(value.items, lane), shuffle(value.count, lane)};
}

struct ScannedSums {
  Sums before;
  Sums all;
};

// Called, not inlined: it is long, and in several places. `sums` is where warps leave theirs.
TW_DEVICE_CALL ScannedSums scan_block(Sums value, Sums* sums) {
  take_for_shared(sums);
  const Sums below = scan_warp(value);
  const i32 lane = lane_id();
  // Not warp_id(), whose shuffle would be waited for.
  const i32 warp = warp_of_thread();
  const i32 warps = num_threads() / kWarpSize;
  if (lane == kWarpSize - 1) sums[warp] = below;
  sync_block();
  const Sums of_warps = scan_warp(lane < warps ? sums[lane] : Sums{}, warps);
  const Sums before = shuffle(of_warps, warp > 0 ? warp - 1 : 0);
  return {(warp > 0 ? before : Sums{}) + below - value, shuffle(of_warps, warps - 1)};
}

// Uses two arrays in turn: when a thread writes one again, all have left it, for they met at the
// barrier of the other. All threads call its functions.
class BlockScan {
 public:
  TW_DEVICE explicit BlockScan(tilewright::plan::UpdateMemory& memory) : memory_(memory) {}

  // The sum of the values of the threads before this one; `total`: of all.
  TW_DEVICE Sums exclusive(const Sums& value, Sums& total) {
    turn_ ^= 1;
    const ScannedSums scanned = scan_block(value, memory_.warp_sums[turn_]);
    total = scanned.all;
    return scanned.before;
  }
  // How many threads before this one say yes; `total`: how many do.
  TW_DEVICE i32 count_before(bool value, i32& total) {
    turn_ ^= 1;
    auto* const counts = reinterpret_cast<i32*>(memory_.warp_sums[turn_]);
    const u32 votes = ballot(value);
    const i32 lane = lane_id();
    const i32 warp = warp_of_thread();
    const i32 warps = num_threads() / kWarpSize;
    if (lane == 0) counts[warp] = count_bits(votes);
    sync_block();
    i32 all = lane < warps ? counts[lane] : 0;
    i32 before = lane < warp ? all : 0;
#pragma unroll
    for (i32 step = kWarpSize / 2; step > 0; step /= 2) {
      all += shuffle_xor(all, step);
      before += shuffle_xor(before, step);
    }
    total = all;
    return before + count_bits(votes & ((1U << lane) - 1));
  }

 private:
  tilewright::plan::UpdateMemory& memory_;
  i32 turn_ = 0;
};

}  // namespace tw
