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

// Called from many places, so not inlined: `sums` is where warps leave theirs.
TW_DEVICE_CALL Sums scan_block(Sums value, Sums* sums, Sums& total) {
  const i32 lane = lane_id();
  const i32 warp = warp_id();
  const Sums own = value;
#pragma unroll
  for (i32 step = 1; step < kWarpSize; step *= 2) {
    const Sums below = {shuffle_up(value.first, step), shuffle_up(value.second, step)};
    if (lane >= step) value = value + below;
  }
  if (lane == kWarpSize - 1) sums[warp] = value;
  sync_block();
  const i32 warps = num_threads() / kWarpSize;
  const Sums of_lane = lane < warps ? sums[lane] : Sums{0, 0};
  Sums all = of_lane;
  Sums before = lane < warp ? of_lane : Sums{0, 0};
#pragma unroll
  for (i32 step = kWarpSize / 2; step > 0; step /= 2) {
    all = all + Sums{shuffle_xor(all.first, step), shuffle_xor(all.second, step)};
    before = before + Sums{shuffle_xor(before.first, step), shuffle_xor(before.second, step)};
  }
  total = all;
  return before + value - own;
}

TW_DEVICE_CALL i32 count_block(bool value, i32* counts, i32& total) {
  const i32 lane = lane_id();
  const i32 warp = warp_id();
  const u32 votes = ballot(value);
  if (lane == 0) counts[warp] = count_bits(votes);
  sync_block();
  const i32 of_lane = lane < num_threads() / kWarpSize ? counts[lane] : 0;
  i32 all = of_lane;
  i32 before = lane < warp ? of_lane : 0;
#pragma unroll
  for (i32 step = kWarpSize / 2; step > 0; step /= 2) {
    all += shuffle_xor(all, step);
    before += shuffle_xor(before, step);
  }
  total = all;
  return before + count_bits(votes & ((1U << lane) - 1));
}

// Uses two arrays in turn: when a thread writes one again, all have left it, for they met at the
// barrier of the other. All threads call its functions.
class BlockScan {
 public:
  TW_DEVICE explicit BlockScan(tilewright::plan::UpdateMemory& memory) : memory_(memory) {}

  // The sum of the values of the threads before this one; `total`: of all.
  TW_DEVICE Sums exclusive(const Sums& value, Sums& total) {
    turn_ ^= 1;
    return scan_block(value, memory_.warp_sums[turn_], total);
  }
  TW_DEVICE Sums total(const Sums& value) {
    Sums all;
    exclusive(value, all);
    return all;
  }
  // How many threads before this one say yes; `total`: how many do.
  TW_DEVICE i32 count_before(bool value, i32& total) {
    turn_ ^= 1;
    return count_block(value, reinterpret_cast<i32*>(memory_.warp_sums[turn_]), total);
  }

 private:
  tilewright::plan::UpdateMemory& memory_;
  i32 turn_ = 0;
};

}  // namespace tw
