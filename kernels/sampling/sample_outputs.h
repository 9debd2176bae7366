// SPDX-License-Identifier: Apache-2.0
// sampling/sample.h with what a call gives beside its tokens: what src/sampling/outputs.cpp gives.
#pragma once

#include "sampling/row_best.h"
#include "sampling/sample.h"

namespace tw {

// A warp has 32 neighbouring tokens: a word of bits.
template <typename T, typename Row>
TW_DEVICE void store_outputs(const OutputParams& out, const Row& row,
                             const Survivors<typename Row::Scale>& left, u64 mass) {
  const i64 index = block_id();
  const auto total = static_cast<float>(mass);
#pragma unroll 1
  for (i32 begin = warp_id() * kWarpSize; begin < row.count; begin += num_threads()) {
    const i32 id = begin + lane_id();
    const bool inside = id < row.count;
    const float logit = inside ? row.raw_at(id) : -kInfinity;
    const float value = row.value(logit);
    const bool has = inside && left.has(id, value);
    const u32 word = ballot(has);
    if (out.kept != nullptr && lane_id() == 0)
      out.kept[index * out.kept_stride + begin / kWarpSize] = word;
    if (!inside) continue;
    if (out.probabilities != nullptr) {
      const float p = has ? divide_exact(static_cast<float>(left.weight(value)), total) : 0.0F;
      out.probabilities[index * out.probabilities_stride + id] = p;
    }
    if (out.masked != nullptr) {
      const float masked = has ? clean_logit(logit) : -kInfinity;
      const i64 at = index * out.masked_stride + id;
      if (out.masked_f32 != 0) {
        static_cast<float*>(out.masked)[at] = masked;
      } else {
        static_cast<T*>(out.masked)[at] = from_float<T>(masked);
      }
    }
  }
}

// The chosen token in a row: whether it was kept; its value, -inf where it was not; how many of
// those that were kept have larger ones.
struct ChosenToken {
  bool kept;
  float value;
  u64 larger;
};

template <typename Row>
TW_DEVICE void store_log_probs(const LogProbParams& out, const Row& row,
                               const Survivors<typename Row::Scale>& left,
                               const ChosenToken& chosen, u64 mass, BestMemory& memory) {
  const i64 index = block_id();
  if (thread_id() == 0) {
    if (out.ranks != nullptr)
      out.ranks[index * out.ranks_stride] = 1 + static_cast<i32>(chosen.larger);
    if (out.chosen != nullptr)
      out.chosen[index * out.chosen_stride] =
          chosen.kept ? left.log_prob(chosen.value, mass) : -kInfinity;
  }
  if (out.best == nullptr) return;
  const i32 count = list_best(
      row, [&](i32 id, float other) { return left.has(id, other); }, out.n, memory.row,
      memory.best);
#pragma unroll 1
  for (i32 i = thread_id(); i < out.n; i += num_threads()) {
    const u64 entry = memory.best.entries[i < count ? i : 0];
    out.best[index * out.best_stride + i] =
        i < count ? left.log_prob(value_of_entry(entry), mass) : -kInfinity;
    out.best_ids[index * out.best_ids_stride + i] = i < count ? id_of_entry(entry) : -1;
  }
  sync_block();
}

// With Scale = ProbabilityScale rows are probabilities.
template <typename T, typename Scale>
TW_DEVICE void sample_with_outputs(const SampleParams& p) {
  using Row = RowOfLogits<T, Scale>;
  BestMemory& memory = *reinterpret_cast<BestMemory*>(shared_memory());
  const OutputParams& out = p.outputs;
  u32 status = 0;
  Row row = row_of_block<Row, T>(p, memory.row.process);
  Survivors<Scale> left;
  const i32 token = sample_row(p, row, left, status, memory.row);
  left.token = token;
  sync_block();  // some may still read what was found of the row
  if (thread_id() == 0) {
    store_status(p, block_id(), status);
    if (p.tokens != nullptr) store_token(p, block_id(), token);
  }
  // The processed row, then the one that was given: one code for both.
#pragma unroll 1
  for (i32 turn = 0; turn < 2; ++turn) {
    const LogProbParams& log_probs = turn == 0 ? out.processed : out.raw;
    if (turn == 1) {
      if (!is_wanted(log_probs)) return;
      row.processed = false;
      row.infinite = false;
      bool nan;
      const float largest =
          of_order_key(static_cast<u32>(largest_of_row(row, nan, memory.row) >> 32));
      sync_block();
      row.infinite = largest == kInfinity;
      left = survivors_of_all<Scale>(
          {row.infinite ? Row::Values::kOne : largest, scale_of_temperature(1.0F)});
    }
    ChosenToken chosen{false, row.value(row.raw_at(token)), 0};
    chosen.kept = left.has(token, chosen.value);
    if (!chosen.kept) chosen.value = -kInfinity;
    u64 mass = 0;
    row.for_all([&](i32 id, float value) {
      if (!left.has(id, value)) return;
      mass += left.weight(value);
      chosen.larger += value > chosen.value ? 1 : 0;
    });
    mass = sum_of_block(mass, memory.row);
    chosen.larger = sum_of_block(chosen.larger, memory.row);
    if (turn == 0) store_outputs<T>(out, row, left, mass);
    if (is_wanted(log_probs)) store_log_probs(log_probs, row, left, chosen, mass, memory);
  }
}

}  // namespace tw
