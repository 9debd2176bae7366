// SPDX-License-Identifier: Apache-2.0
// Prefix sums and totals over the threads of a block, one barrier each.
#pragma once

#include "arch/thread.h"
#include "plan/update_memory.h"

namespace tw {

using tilewright::plan::Sums;

TW_DEVICE Sums operator+(const Sums& a, const Sums& b) {
  return {a.first + b.first, a.second + b.second};
}
TW_DEVICE Sums operator-(const Sums& a, const Sums& b) {
  return {a.first - b.first, a.second - b.second};
}

// Uses two arrays in turn: when a thread writes one again, all have left it, for they met at the
// barrier of the other.
class BlockScan {
 public:
  TW_DEVICE explicit BlockScan(tilewright::plan::UpdateMemory& memory) : memory_(memory) {}

  // The sum of the values of the threads before this one; `total`: of all. All threads call it.
  TW_DEVICE Sums exclusive(Sums value, Sums& total) {
    const i32 lane = lane_id();
    const Sums inclusive = inclusive_of_warp(value, lane);
    Sums* sums = memory_.warp_sums[turn_];
    turn_ ^= 1;
    const i32 warp = warp_id();
    if (lane == kWarpSize - 1) sums[warp] = inclusive;
    sync_block();
    const i32 warps = num_threads() / kWarpSize;
    const Sums of_warps = inclusive_of_warp(lane < warps ? sums[lane] : Sums{0, 0}, lane);
    total = of_lane(of_warps, kWarpSize - 1);
    const Sums before = of_lane(of_warps, warp > 0 ? warp - 1 : 0);
    return inclusive - value + (warp > 0 ? before : Sums{0, 0});
  }
  TW_DEVICE Sums total(Sums value) {
    Sums all;
    exclusive(value, all);
    return all;
  }

 private:
  TW_DEVICE static Sums of_lane(const Sums& value, i32 lane) {
    return {shuffle(value.first, lane), shuffle(value.second, lane)};
  }
  TW_DEVICE static Sums inclusive_of_warp(Sums value, i32 lane) {
    for (i32 step = 1; step < kWarpSize; step *= 2) {
      const Sums below = {shuffle_up(value.first, step), shuffle_up(value.second, step)};
      if (lane >= step) value = value + below;
    }
    return value;
  }

  tilewright::plan::UpdateMemory& memory_;
  i32 turn_ = 0;
};

}  // namespace tw
