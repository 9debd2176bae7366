// SPDX-License-Identifier: Apache-2.0
// Samples a token from each row of logits, as docs/sampling.md says: the same token as on the CPU.
// A block has a row.
#pragma once

#include "arch/elements.h"
#include "arch/thread.h"
#include "sampling/params.h"
#include "sampling/random_bits.h"
#include "sampling/row.h"

namespace tw {

// The numbers of a row, bad ones replaced.
struct RowNumbers {
  float temperature;  // 0: greedy
  i32 top_k;
  float top_p;
  float min_p;
  i64 entry;
  u32 status;  // kStatusBadParameter, or 0
};

TW_DEVICE RowNumbers numbers_of_entry(const SampleParams& p, i64 entry) {
  RowNumbers n;
  n.temperature = value_of_entry(p.temperature, entry);
  n.top_k = value_of_entry(p.top_k, entry);
  n.top_p = value_of_entry(p.top_p, entry);
  n.min_p = value_of_entry(p.min_p, entry);
  n.entry = entry;
  const bool good = n.temperature >= 0 && n.top_p == n.top_p && n.min_p >= 0 && n.min_p <= 1;
  n.status = good ? 0 : kStatusBadParameter;
  if (!(n.temperature >= 0)) n.temperature = 0;
  if (!(n.min_p >= 0)) n.min_p = 0;
  n.min_p = min_of(n.min_p, 1.0F);
  return n;
}

enum class Filter : i32 { none, top_k, top_p, min_p };

// What acts in each turn; none: the draw. Joint top-k and top-p both see all tokens: both keep some
// that come first, so the one that keeps less decides, and top-k may as well act on what top-p
// kept.
TW_DEVICE Filter filter_of_turn(Order order, i32 turn) {
  if (turn == 3) return Filter::none;
  if (order == Order::vllm) {
    return turn == 0 ? Filter::min_p : turn == 1 ? Filter::top_k : Filter::top_p;
  }
  if (turn == 2) return Filter::min_p;
  return (turn == 0) == (order == Order::joint) ? Filter::top_p : Filter::top_k;
}

// What the filters keep of a row, then the draw, as turns of one loop: each part of the code is
// there once, because it is long. The row has a finite largest value.
template <typename T>
TW_DEVICE i32 draw(const SampleParams& p, const RowNumbers& numbers, const RowOfLogits<T>& row,
                   float largest, SampleMemory& memory) {
  const i32 top_k = numbers.top_k;
  const float top_p = numbers.top_p;
  const u64 random =
      sampling_bits(value_of_entry(p.seeds, numbers.entry), value_of_entry(p.steps, numbers.entry));
  const WeightScale of_draw{largest, scale_of_temperature(numbers.temperature)};
  WeightScale scale = of_draw;
  if (p.order == Order::llamacpp) scale.scale = scale_of_temperature(1.0F);
  Kept kept{-kInfinity, kLastId};
  u64 least = 0;
  const auto passes = [&](i32 id, float value) {
    return kept.contains(id, value) && (least == 0 || token_weight(value, scale) >= least);
  };
#pragma unroll 1
  for (i32 turn = 0;; ++turn) {
    const Filter filter = filter_of_turn(p.order, turn);
    if (filter == Filter::top_k && (top_k <= 0 || top_k >= row.count)) continue;
    if (filter == Filter::top_p && !(top_p < 1)) continue;
    if (filter == Filter::min_p) {
      if (numbers.min_p > 0) least = least_weight(numbers.min_p);
      continue;
    }
    u64 rest = 0;
    if (filter != Filter::none) {
      const Threshold threshold = find_threshold(
          row, passes,
          [&](float value) {
            return filter == Filter::top_k ? u64{1} : token_weight(value, scale);
          },
          [&](u64 total) {
            if (filter == Filter::top_p) return mass_target(top_p, total);
            // Those before may have kept less.
            return static_cast<u64>(top_k) < total ? static_cast<u64>(top_k) : total;
          },
          memory);
      if (threshold.value != kept.threshold) kept = {threshold.value, kLastId};
      const u64 each = filter == Filter::top_k ? u64{1} : token_weight(threshold.value, scale);
      rest = (threshold.rest + each - 1) / each;
      if (rest * each >= threshold.group) continue;  // all that are equal are kept
    }
    const i32 id = locate(
        row,
        [&](i32 i, float value) {
          if (filter != Filter::none) return value == kept.threshold ? u64{1} : u64{0};
          return passes(i, value) ? token_weight(value, of_draw) : u64{0};
        },
        // floor(random / 2^64 * total) is uniform in [0, total).
        [&](u64 total) { return filter != Filter::none ? rest - 1 : multiply_high(random, total); },
        memory);
    if (filter == Filter::none) return id;
    kept.last_tie = id;
  }
}

// The row's token, and its status.
template <typename T>
TW_DEVICE i32 sample_row(const SampleParams& p, u32& status, SampleMemory& memory) {
  const i64 index = block_id();
  i64 entry = index;
  if (p.slots != nullptr && p.entries > 0) {
    entry = static_cast<const i32*>(p.slots)[index * p.slots_stride];
    if (entry < 0 || entry >= p.entries) {
      status = kStatusSlot;
      return 0;
    }
  }
  RowNumbers numbers = numbers_of_entry(p, entry);
  bool good;
  const LogitProcess process =
      process_of_entry(p.process, entry, p.vocabulary, memory.bias_filter, good);
  if (!good) numbers.status = kStatusBadParameter;
  RowOfLogits<T> row{static_cast<const T*>(p.logits) + index * p.logits_stride,
                     p.vocabulary,
                     p.aligned != 0,
                     process.any(),
                     process,
                     false};
  bool nan;
  const u64 largest = largest_of_row(row, nan, memory);
  const i32 arg_max = static_cast<i32>(~static_cast<u32>(largest));
  const float value = of_order_key(static_cast<u32>(largest >> 32));
  status = numbers.status | (nan ? kStatusNan : 0) | (value == kInfinity ? kStatusInfinity : 0) |
           (value == -kInfinity ? kStatusNoCandidate : 0);
  if (value == -kInfinity) return first_allowed(process, p.vocabulary);
  if (numbers.temperature == 0) return arg_max;
  row.infinite = value == kInfinity;
  return draw(p, numbers, row, row.infinite ? 0.0F : value, memory);
}

template <typename T>
TW_DEVICE void sample(const SampleParams& p) {
  SampleMemory& memory = *reinterpret_cast<SampleMemory*>(shared_memory());
  u32 status = 0;
  const i32 token = sample_row<T>(p, status, memory);
  if (thread_id() != 0) return;
  if (p.status != nullptr) static_cast<u32*>(p.status)[block_id() * p.status_stride] = status;
  const i64 at = block_id() * p.tokens_stride;
  if (p.tokens_64 != 0) {
    static_cast<i64*>(p.tokens)[at] = token;
  } else {
    static_cast<i32*>(p.tokens)[at] = token;
  }
}

}  // namespace tw
