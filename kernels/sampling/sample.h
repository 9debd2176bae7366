// SPDX-License-Identifier: Apache-2.0
// Samples a token from each row of logits, as docs/sampling.md says: the same token as on the CPU.
// A block has a row.
#pragma once

#include "arch/elements.h"
#include "arch/thread.h"
#include "sampling/params.h"
#include "sampling/random_bits.h"
#include "sampling/row.h"
#include "sampling/row_numbers.h"
#include "sampling/survivors.h"

namespace tw {

// What the filters keep of a row, then the draw, as turns of one loop: each part of the code is
// there once, because it is long. The row has a finite largest value. `left` is made; unless it
// `draws`, that is all.
template <bool draws = true, typename Row>
TW_DEVICE i32 draw(const SampleParams& p, const RowNumbers& numbers, const Row& row, float largest,
                   Survivors<typename Row::Scale>& left, SampleMemory& memory) {
  const u64 random =
      sampling_bits(value_of_entry(p.seeds, numbers.entry), value_of_entry(p.steps, numbers.entry));
  const float scale_of_row = scale_of_temperature(numbers.temperature);
  left = survivors_of_all<typename Row::Scale>({largest, scale_of_row});
  Kept& kept = left.kept;
  auto& typicality = left.typicality;
  auto& scale = left.scale;
  auto& of_draw = left.of_draw;
  u64& least = left.least;
  if (p.order == Order::llamacpp) scale.scale = scale_of_temperature(1.0F);
  typicality.scale = scale;
  const auto passes = [&](i32 id, float value) { return left.contains(id, value); };
#pragma unroll 1
  for (i32 turn = 0;; ++turn) {
    const Filter filter = filter_of_turn(p.order, turn);
    if (!draws && filter == Filter::none) return kLastId;
    if (is_off(filter, numbers, row.count)) continue;
    if (filter == Filter::min_p) {
      const u64 weight = least_weight(numbers.min_p, token_weight(largest, scale));
      if (weight > least) least = weight;
      continue;
    }
    const bool by_score = filter == Filter::typical_p;
    if (by_score) {
      // Others may be nearer to the mean than what is kept, on one side of it.
      if (least == 0) least = 1;
      typicality.mean = mean_exponent(row, passes, scale, memory);
    }
    const auto measure = [&](float value) {
      return filter == Filter::top_k ? u64{1} : token_weight(value, scale);
    };
    const auto score = [&](float value) { return by_score ? typicality.score(value) : value; };
    Threshold threshold{0, 0, 0};
    bool all_ties = false;
    if (filter != Filter::none) {
      threshold = find_threshold(
          row, passes, score, measure,
          [&](u64 total) {
            if (filter == Filter::top_p) return mass_target(numbers.top_p, total);
            if (by_score) return mass_target(numbers.typical_p, total);
            // Those before may have kept less.
            const u64 k = static_cast<u64>(numbers.top_k);
            return k < total ? k : total;
          },
          memory);
      all_ties = threshold.rest == threshold.group;
      if (!by_score) {
        // All ties weigh the same.
        const u64 each = measure(threshold.score);
        all_ties = (threshold.rest + each - 1) / each * each >= threshold.group;
      }
    }
    i32 id = kLastId;
    if (!all_ties) {
      id = locate(
          row,
          [&](i32 i, float value) {
            if (!passes(i, value)) return u64{0};
            if (filter == Filter::none) return token_weight(value, of_draw);
            return score(value) == threshold.score ? measure(value) : u64{0};
          },
          // floor(random / 2^64 * total) is uniform in [0, total).
          [&](u64 total) {
            return filter != Filter::none ? threshold.rest - 1 : multiply_high(random, total);
          },
          memory);
    }
    if (filter == Filter::none) return id;
    if (by_score) {
      left.typical = {threshold.score, id};
      if (p.order == Order::llamacpp) {
        largest = largest_of(row, passes, memory);
        of_draw.largest = largest;
      }
    } else if (!all_ties || threshold.score != kept.threshold) {
      kept = {threshold.score, id};
    }
  }
}

// The row's token, its status, and what the token was drawn from. `row` is at first as it is given.
template <typename Row>
TW_DEVICE i32 sample_row(const SampleParams& p, Row& row, Survivors<typename Row::Scale>& left,
                         u32& status, SampleMemory& memory) {
  left = survivors_of_all<typename Row::Scale>({0, 1});
  left.alone = true;
  i64 entry;
  if (!find_entry(p, block_id(), entry)) {
    status = kStatusSlot;
    return 0;
  }
  RowNumbers numbers = numbers_of_entry(p, entry);
  const LogitProcess& process = memory.process;
  if (!process_of_entry(p.process, entry, p.vocabulary, memory.bias_filter, memory.process))
    numbers.status = kStatusBadParameter;
  row.processed = changes_logits(process);
  if constexpr (Row::Values::kProbabilities) {
    if (numbers.temperature != 0 && numbers.temperature != 1) {
      numbers.temperature = 1;
      numbers.status = kStatusBadParameter;
    }
    bool negative = false;
#pragma unroll 1
    for (i32 id = thread_id(); id < row.count; id += num_threads()) negative |= row.raw_at(id) < 0;
    if (any_of_block(negative)) numbers.status |= kStatusNegative;
  }
  bool nan;
  const u64 largest = largest_of_row(row, nan, memory);
  const i32 arg_max = static_cast<i32>(~static_cast<u32>(largest));
  const float value = of_order_key(static_cast<u32>(largest >> 32));
  status = numbers.status | status_of_logits(value, nan);
  if (value == -kInfinity) return first_allowed(process, p.vocabulary);
  if (numbers.temperature == 0) return arg_max;
  row.infinite = value == kInfinity;
  return draw(p, numbers, row, row.infinite ? Row::Values::kOne : value, left, memory);
}

template <typename Row, typename T>
TW_DEVICE Row row_of_block(const SampleParams& p, const LogitProcess& process) {
  return {static_cast<const T*>(p.logits) + block_id() * p.logits_stride,
          p.vocabulary,
          p.aligned != 0,
          false,
          process,
          false};
}

template <typename T>
TW_DEVICE void sample(const SampleParams& p) {
  SampleMemory& memory = *reinterpret_cast<SampleMemory*>(shared_memory());
  u32 status = 0;
  RowOfLogits<T> row = row_of_block<RowOfLogits<T>, T>(p, memory.process);
  Survivors<WeightScale> left;
  const i32 token = sample_row(p, row, left, status, memory);
  if (thread_id() != 0) return;
  store_status(p, block_id(), status);
  store_token(p, block_id(), token);
}

}  // namespace tw
