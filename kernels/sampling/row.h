// SPDX-License-Identifier: Apache-2.0
// A row of logits that a block samples from: passes over it, and the two searches that are made of
// them. Both count in integers, so neither depends on the order of threads.
#pragma once

#include "arch/elements.h"
#include "arch/memory.h"
#include "arch/thread.h"
#include "sampling/kept.h"
#include "sampling/process_logit.h"
#include "sampling/token_weight.h"

namespace tw {

// Neighbouring logits of a thread: what is done to each is there as often.
inline constexpr i32 kRowRun = 4;
static_assert(kRun % kRowRun == 0, "rows are aligned to runs of kRun");

// What the values of a row are beside numbers: of logits, and of probabilities, which are -inf
// where there is none. `kOne` weighs as much as the largest one.
template <typename Scale>
struct ValuesOfRow {
  static constexpr bool kProbabilities = false;
  static constexpr float kOne = 0;
  TW_DEVICE static float clean(float logit) { return clean_logit(logit); }
};
template <>
struct ValuesOfRow<ProbabilityScale> {
  static constexpr bool kProbabilities = true;
  static constexpr float kOne = 1;
  TW_DEVICE static float clean(float p) { return p > 0 ? p : -kInfinity; }
};

template <typename T, typename ScaleOfRow = WeightScale>
struct RowOfLogits {
  using Scale = ScaleOfRow;
  using Values = ValuesOfRow<Scale>;

  const T* logits;
  i32 count;
  bool aligned;
  bool processed;               // else the logits are as they are
  const LogitProcess& process;  // in shared memory
  bool infinite;                // the largest logit is +inf: all mass lies on such ones, evenly

  TW_DEVICE float value(float logit) const {
    if (infinite) return logit == kInfinity ? Values::kOne : -kInfinity;
    return Values::clean(logit);
  }

  // What processing made of one logit.
  TW_DEVICE float raw_at(i32 id) const {
    const float logit = to_float(logits[id]);
    return processed ? process_logit(process, id, logit) : logit;
  }

  // The logits of the run that begins at `begin`, as far as they are before `end`.
  TW_DEVICE void load(i32 begin, i32 end, float (&run)[kRowRun]) const {
    if (aligned & (begin % kRowRun == 0) & (begin + kRowRun <= end)) {
      load_run(logits + begin, run);
    } else {
#pragma unroll
      for (i32 j = 0; j < kRowRun; ++j)
        run[j] = begin + j < end ? to_float(logits[begin + j]) : 0.0F;
    }
  }

  // body(id, logit) of the runs that begin at first, first + step, .., up to `end`, which is in the
  // row: what processing made of the logits. Bodies are long and there are many of them, so each is
  // there once; a run is asked for before the one before it is done.
  template <typename Body>
  TW_DEVICE void for_raw_runs(i32 first, i32 step, i32 end, const Body& body) const {
    float run[kRowRun] = {};
    i32 id = first;  // of run[0]
    i32 run_end = first;
#pragma unroll 1
    for (i32 begin = first; id < end; begin += step) {
      float next[kRowRun];
      load(begin, end, next);
#pragma unroll 1
      for (; id < run_end; ++id) {
        body(id, processed ? process_logit(process, id, run[0]) : run[0]);
#pragma unroll
        for (i32 j = 0; j + 1 < kRowRun; ++j) run[j] = run[j + 1];
      }
#pragma unroll
      for (i32 j = 0; j < kRowRun; ++j) run[j] = next[j];
      id = begin;
      run_end = begin + kRowRun < end ? begin + kRowRun : end;
    }
  }

  // body(id, value) of the same.
  template <typename Body>
  TW_DEVICE void for_runs(i32 first, i32 step, i32 end, const Body& body) const {
    for_raw_runs(first, step, end, [&](i32 id, float logit) { body(id, value(logit)); });
  }

  // Of all, dealt out to the block's threads.
  template <typename Body>
  TW_DEVICE void for_all_raw(const Body& body) const {
    for_raw_runs(thread_id() * kRowRun, num_threads() * kRowRun, count, body);
  }
  template <typename Body>
  TW_DEVICE void for_all(const Body& body) const {
    for_runs(thread_id() * kRowRun, num_threads() * kRowRun, count, body);
  }
};

// The largest value and the lowest id that has it, as order_key(value) << 32 | ~id; and whether a
// logit is NaN.
template <typename Row>
TW_DEVICE u64 largest_of_row(const Row& row, bool& nan, SampleMemory& memory) {
  u64 largest = 0;
  nan = false;
  row.for_all_raw([&](i32 id, float logit) {
    if (logit != logit) nan = true;
    const u64 entry = u64{order_key(row.value(logit))} << 32 | ~static_cast<u32>(id);
    if (entry > largest) largest = entry;
  });
  nan = any_of_block(nan);
#pragma unroll
  for (i32 mask = kWarpSize / 2; mask > 0; mask /= 2) {
    const u64 other = shuffle_xor(largest, mask);
    if (other > largest) largest = other;
  }
  if (lane_id() == 0) memory.of_warps[thread_id() / kWarpSize] = largest;
  sync_block();
#pragma unroll 1
  for (i32 warp = 0; warp < num_threads() / kWarpSize; ++warp) {
    if (memory.of_warps[warp] > largest) largest = memory.of_warps[warp];
  }
  return largest;
}

// The sum over the block's threads. A call, as it ends several passes.
TW_DEVICE_CALL u64 sum_of_block(u64 value, SampleMemory& memory) {
  value = sum_of_warp(value);
  if (lane_id() == 0) memory.of_warps[warp_of_thread()] = value;
  sync_block();
  u64 sum = 0;
#pragma unroll 1
  for (i32 warp = 0; warp < num_threads() / kWarpSize; ++warp) sum += memory.of_warps[warp];
  sync_block();
  return sum;
}

// The sum of measure(id, value) over the row.
template <typename Row, typename Measure>
TW_DEVICE u64 sum_of_row(const Row& row, const Measure& measure, SampleMemory& memory) {
  u64 sum = 0;
  row.for_all([&](i32 id, float value) { sum += measure(id, value); });
  return sum_of_block(sum, memory);
}

// The first entry, in order of ids, at which the sum of measure(id, value) exceeds target_of(total)
// < total. Warps sum stretches of the row; then one of them, in the stretch that has the entry,
// parts of it, parts of such a part, and at last single entries. All are turns of one loop.
template <typename Row, typename Measure, typename Target>
TW_DEVICE i32 locate(const Row& row, const Measure& measure, const Target& target_of,
                     SampleMemory& memory) {
  constexpr i32 kStep = kWarpSize * kRowRun;
  constexpr i32 kEach = kStretches / kWarpSize;  // stretches of a lane
  const i32 stretch = ((row.count - 1) / (kStep * kStretches) + 1) * kStep;
  i32 each = stretch / kWarpSize;  // entries of a lane
  i32 s = warp_id();
  i32 begin = s * stretch;
  bool narrowing = false;
  u64 rest = 0;
#pragma unroll 1
  for (;;) {
    const i32 first = begin + lane_id() * each;
    u64 sum = 0;
    row.for_runs(first, kRowRun, first + each < row.count ? first + each : row.count,
                 [&](i32 id, float value) { sum += measure(id, value); });
    if (!narrowing) {
      sum = sum_of_warp(sum);
      if (lane_id() == 0) memory.stretches[s] = sum;
      s += num_threads() / kWarpSize;
      begin = s * stretch;
      if (begin < row.count) continue;
      sync_block();
      if (warp_id() != 0) break;
      // A lane has neighbouring stretches.
      sum = 0;
#pragma unroll 1
      for (i32 i = 0; i < kEach && (lane_id() * kEach + i) * stretch < row.count; ++i)
        sum += memory.stretches[lane_id() * kEach + i];
    }
    const u64 up_to = sum_up_to_lane(sum);
    if (!narrowing) rest = target_of(shuffle(up_to, kWarpSize - 1));
    const i32 lane = lowest_bit(ballot(up_to > rest));
    rest -= shuffle(up_to - sum, lane);
    if (!narrowing) {
      s = lane * kEach;
#pragma unroll 1
      while (rest >= memory.stretches[s]) rest -= memory.stretches[s++];
      begin = s * stretch;
      narrowing = true;
      continue;
    }
    begin += lane * each;
    if (each == 1) break;
    each = (each - 1) / kWarpSize + 1;
  }
  if (thread_id() == 0) memory.result[0] = static_cast<u64>(begin);
  sync_block();
  const i32 id = static_cast<i32>(memory.result[0]);
  sync_block();
  return id;
}

// The smallest set of the tokens that come first by score(value), of those that pass(id, value),
// whose measures (a token's weight, or 1) reach target_of(total), which is not above the total: all
// whose scores are above a threshold, and of those at it, whose measures are `group`, as many as
// reach `rest`.
struct Threshold {
  float score;
  u64 rest;
  u64 group;
};

// A digit of the order keys a pass.
template <typename Row, typename Pass, typename Score, typename Measure, typename Target>
TW_DEVICE Threshold find_threshold(const Row& row, const Pass& pass, const Score& score,
                                   const Measure& measure, const Target& target_of,
                                   SampleMemory& memory) {
  constexpr i32 kDigitBits = 8;
  u32 prefix = 0;
  u64 target = 0;
  u64 group = 0;  // the measure of the entries that begin with the prefix
#pragma unroll 1
  for (i32 shift = 32 - kDigitBits; shift >= 0; shift -= kDigitBits) {
    for (i32 i = thread_id(); i < kDigits * kCopies; i += num_threads()) memory.histogram[i] = 0;
    sync_block();
    const bool first = shift == 32 - kDigitBits;
    const i32 copy = lane_id() % kCopies;
    row.for_all([&](i32 id, float value) {
      const u32 key = order_key(score(value)) >> shift;
      if ((first || key >> kDigitBits == prefix) && pass(id, value)) {
        const i32 digit = static_cast<i32>(key % kDigits);
        atomic_add_64(&memory.histogram[digit * kCopies + copy], measure(value));
      }
    });
    sync_block();
    // A digit's copies, each thread from another one on: other banks.
#pragma unroll 1
    for (i32 digit = thread_id(); digit < kDigits; digit += num_threads()) {
      u64* const copies = memory.histogram + digit * kCopies;
      u64 sum = 0;
#pragma unroll
      for (i32 c = 0; c < kCopies; ++c) sum += copies[(digit + c) % kCopies];
      copies[0] = sum;
    }
    sync_block();
    if (warp_id() == 0) {
      // Lane 0 has the largest digits.
      constexpr i32 kEach = kDigits / kWarpSize;
      const i32 top = kDigits - 1 - lane_id() * kEach;
      u64 of_digit[kEach];
      u64 mine = 0;
#pragma unroll
      for (i32 i = 0; i < kEach; ++i) {
        of_digit[i] = memory.histogram[(top - i) * kCopies];
        mine += of_digit[i];
      }
      const u64 up_to = sum_up_to_lane(mine);
      const u64 total = shuffle(up_to, kWarpSize - 1);
      if (first) target = target_of(total);
      if (lane_id() == lowest_bit(ballot(up_to >= target))) {
        u64 rest = target - (up_to - mine);
        bool found = false;
#pragma unroll
        for (i32 i = 0; i < kEach; ++i) {
          if (!found && rest <= of_digit[i]) {
            memory.result[0] = prefix << kDigitBits | static_cast<u32>(top - i);
            memory.result[1] = rest;
            memory.result[2] = of_digit[i];
            found = true;
          }
          if (!found) rest -= of_digit[i];
        }
      }
    }
    sync_block();
    prefix = static_cast<u32>(memory.result[0]);
    target = memory.result[1];
    group = memory.result[2];
    sync_block();
  }
  return {of_order_key(prefix), target, group};
}

}  // namespace tw
