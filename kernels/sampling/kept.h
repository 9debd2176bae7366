// SPDX-License-Identifier: Apache-2.0
// What all sampling kernels are made of: which tokens a filter keeps, the order of logits as
// integers, and sums over a warp or a block.
#pragma once

#include "arch/numeric.h"
#include "arch/thread.h"

namespace tw {

inline constexpr i32 kLastId = 0x7FFFFFFF;

// A filter: tokens above the threshold, and those at it up to the id `last_tie`.
struct Kept {
  float threshold;
  i32 last_tie;

  TW_DEVICE bool contains(i32 id, float value) const {
    // Without a branch.
    return (value > threshold) | ((value == threshold) & (id <= last_tie));
  }
};

// Unsigned integers in the order of the floats (no NaN, no -0), and back.
TW_DEVICE u32 order_key(float value) {
  const u32 bits = bits_of(value);
  return (bits >> 31) != 0 ? ~bits : bits | 0x80000000U;
}
TW_DEVICE float of_order_key(u32 key) {
  return float_of((key >> 31) != 0 ? key & 0x7FFFFFFFU : ~key);
}

// An entry of a row: the larger one comes first where tokens are kept by their logits. No two are
// equal.
TW_DEVICE u64 entry_of(float value, i32 id) {
  return u64{order_key(value)} << 32 | ~static_cast<u32>(id);
}
TW_DEVICE float value_of_entry(u64 entry) {
  return of_order_key(static_cast<u32>(entry >> 32));
}
TW_DEVICE i32 id_of_entry(u64 entry) {
  return static_cast<i32>(~static_cast<u32>(entry));
}

// Loops that run once a row stay loops: an instruction that is fetched costs more than one that
// runs again.
TW_DEVICE u64 sum_of_warp(u64 value) {
#pragma unroll
  for (i32 mask = kWarpSize / 2; mask > 0; mask /= 2) value += shuffle_xor(value, mask);
  return value;
}
// The sum over this lane and those before it.
TW_DEVICE u64 sum_up_to_lane(u64 value) {
#pragma unroll
  for (i32 lanes = 1; lanes < kWarpSize; lanes *= 2) {
    const u64 before = shuffle_up(value, lanes);
    if (lane_id() >= lanes) value += before;
  }
  return value;
}

// Sums over the threads of the block, each up to this one, and of all.
struct BlockSum {
  u64 up_to;
  u64 total;
};
template <i32 warps>
TW_DEVICE BlockSum sum_up_to_thread(u64* of_warps, u64 value) {
  BlockSum sum = {sum_up_to_lane(value), 0};
  if (lane_id() == kWarpSize - 1) of_warps[warp_of_thread()] = sum.up_to;
  sync_block();
  u64 before = 0;
#pragma unroll
  for (i32 warp = 0; warp < warps; ++warp) {
    const u64 of_warp = of_warps[warp];
    sum.total += of_warp;
    before += warp < warp_of_thread() ? of_warp : 0;
  }
  sum.up_to += before;
  return sum;
}

}  // namespace tw
