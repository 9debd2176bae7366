// SPDX-License-Identifier: Apache-2.0
// sampling/cluster_sample.h with what a call gives beside its tokens: the same as
// sampling/sample_outputs.h.
#pragma once

#include "sampling/best.h"
#include "sampling/cluster_best.h"
#include "sampling/cluster_kept.h"
#include "sampling/cluster_sample.h"

namespace tw {

struct ClusterOutputsMemory {
  ClusterMemory row;
  bool known;  // the row's entry in parameters
  bool good;   // what is said there of processing
  i32 warp_logits;
  KeptOfRow left;
  // What a thread tells all blocks.
  u32 token;
  u64 mass;  // of a list
  u64 last;  // its last entry
  // The leader's: how many entries are larger than the chosen one, processed and raw.
  u32 larger[2];
};
static_assert(sizeof(ClusterOutputsMemory) <= kClusterSharedBytes);

// Where more of the best are wanted than are listed else.
struct ClusterManyBestMemory {
  ClusterOutputsMemory outputs;
  u64 entries[kMostBest];  // the leader's
};
static_assert(sizeof(ClusterManyBestMemory) <= kClusterBestSharedBytes);

// Fills in what was dropped from a row that is as it was given.
template <typename T>
TW_DEVICE void restore_dropped(const ClusterRow<float>& row, const T* logits, bool infinite) {
  row.for_runs([&](i32 id, const float(&values)[kClusterRun], float* to) {
    bool some = false;
#pragma unroll
    for (i32 j = 0; j < kClusterRun; ++j) some |= values[j] != values[j];
    if (!some) return;
#pragma unroll 1
    for (i32 j = 0; j < kClusterRun; ++j) {
      if ((to[j] == to[j]) | (id + j >= row.count)) continue;
      const float logit = clean_logit(to_float(logits[id + j]));
      to[j] = !infinite ? logit : logit == kInfinity ? 0.0F : -kInfinity;
    }
  });
}

// Reads what a block has; -0 is 0.
TW_DEVICE float value_of_token(const ClusterRow<float>& row, i32 token) {
  const i32 block_logits = kClusterWarps * row.warp_logits;
  const u32* const place = reinterpret_cast<const u32*>(row.memory.logits);
  return add_exact(float_of(load_remote(place + token % block_logits, token / block_logits)), 0.0F);
}

// Of what each warp has told this block.
TW_DEVICE u64 total_of_warps(const ClusterRow<float>& row) {
  u64 sum = 0;
#pragma unroll 1
  for (i32 warp = lane_id(); warp < row.warps(); warp += kWarpSize) sum += row.memory.totals[warp];
  return sum_of_warp(sum);
}

template <typename T>
struct OutputsOfRow {
  const SampleParams& p;
  ClusterOutputsMemory& shared;
  ClusterRow<float> row;
  Extremes extremes;
  bool infinite;  // the row is that of keep_infinite()

  TW_DEVICE i64 index() const { return block_id() / row.blocks; }
  TW_DEVICE const T* logits() const {
    return static_cast<const T*>(p.logits) + index() * p.logits_stride;
  }
  TW_DEVICE bool leads() const { return row.rank == 0; }
  TW_DEVICE bool tells() const { return leads() && thread_id() == 0; }
  TW_DEVICE bool has_none() const { return extremes.largest == -kInfinity; }
  // To all blocks.
  TW_DEVICE void tell_token(i32 token) const {
#pragma unroll 1
    for (i32 block = 0; block < row.blocks; ++block)
      store_remote(&shared.token, block, static_cast<u32>(token));
  }

  // What is done to the row's logits.
  TW_DEVICE void process() const {
    ClusterMemory& memory = shared.row;
    i64 entry;
    const bool known = find_entry(p, index(), entry);
    bool good = true;
    if (known) {
      good = process_of_entry(p.process, entry, p.vocabulary, memory.bias_filter, memory.process);
    }
    if (thread_id() == 0) {
      if (!known) memory.process = LogitProcess{};
      shared.known = known;
      shared.good = good;
      shared.warp_logits = row.warp_logits;
    }
    sync_block();
  }
  // By threads that store no results.
  TW_DEVICE void keep_numbers_of_row() const {
    if (thread_id() != kClusterThreads - 1 && thread_id() != kClusterThreads - 1 - kWarpSize)
      return;
    i64 entry;
    if (!find_entry(p, index(), entry)) return;
    if (thread_id() == kClusterThreads - 1) {
      keep_numbers(shared.row, p, entry);
      RowNumbers& numbers = shared.row.numbers;
      if (numbers.temperature == 0) {
        // All is drawn from the first one of the largest.
        numbers.top_k = 1;
        numbers.top_p = 1;
      }
    } else {
      shared.row.random =
          sampling_bits(value_of_entry(p.seeds, entry), value_of_entry(p.steps, entry));
    }
  }

  TW_DEVICE void tell_status() const {
    if (!tells()) return;
    store_status(
        p, index(),
        shared.known ? status_of_row(shared.row, shared.good, extremes.largest) : kStatusSlot);
  }

  TW_DEVICE void treat_infinite() {
    if (extremes.largest != kInfinity) return;
    extremes = keep_infinite(row, extremes);
    infinite = true;
  }

  // A row without a draw keeps its token alone.
  TW_DEVICE void choose_alone() const {
    if (tells()) tell_token(shared.known ? first_allowed(shared.row.process, p.vocabulary) : 0);
  }

  // Draws from what filters have left, unless the token is `alone`; then all blocks know what is
  // kept.
  TW_DEVICE void draw(const RowLeft& rest, const WeightScale& scale, bool alone,
                      const BinTurns& turns) {
    ClusterMemory& memory = shared.row;
    const bool listed = rest.listed <= kMostListed;
    const u64 least = alone ? 0 : least_of_row(memory.numbers, scale);
    i32 drawn = -1;
    if (!listed) {
      draw_from_row(row, rest.threshold, least, scale, [&](i32 id) { drawn = id; });
    } else if (leads() & !alone) {
      u64* const sorted = turns.other(memory);
      const ListLeft of_list = filter_list(memory, p.order, sorted, rest.listed, rest.turn,
                                           rest.target, least, memory.numbers, row.count, scale);
      draw_from_list(memory, sorted, of_list, [&](i32 id) { drawn = id; });
      const u64 mass = sum_up_to_thread<kClusterWarps>(memory.of_warps[2], of_list.weight).total;
      if (thread_id() < row.blocks) {
        store_remote(&shared.mass, thread_id(), mass);
        store_remote(&shared.last, thread_id(), sorted[of_list.count - 1]);
      }
    }
    if (drawn >= 0) tell_token(drawn);
    sync_cluster();
    if (warp_id() == 0) {
      const u64 mass = listed ? shared.mass : total_of_warps(row);
      if (lane_id() == 0) {
        const i32 token = static_cast<i32>(shared.token);
        Kept kept{rest.threshold, kLastId};
        if (listed) kept = {value_of_entry(shared.last), id_of_entry(shared.last)};
        if (alone) {
          shared.left = {true, infinite, token, {}, 0, {0, 1}, u64{1} << kWeightBits};
        } else {
          shared.left = {false, infinite, token, kept, least, scale, mass};
        }
        if (leads() && p.tokens != nullptr) store_token(p, index(), token);
      }
    }
    sync_block();
  }

  // Makes the row what was given, but for what is done to all rows; false if it is to be read.
  TW_DEVICE bool restore() {
    const bool changed = changes_logits(shared.row.process);
    sync_cluster();  // all are done with the row as it was
    if (!changed) {
      restore_dropped(row, logits(), infinite);
      return true;
    }
    if (thread_id() == 0) shared.row.process = LogitProcess{};
    begin_cluster(shared.row);
    sync_block();
    infinite = false;
    return false;
  }

  // The chosen token's log-probability and rank. Behind it the best n can be looked for.
  TW_DEVICE void tell_chosen(const LogProbParams& wanted, bool raw) {
    KeptOfRow& left = shared.left;
    ClusterMemory& memory = shared.row;
    const bool alone = !raw & left.alone;
    const WeightScale scale{extremes.largest, scale_of_temperature(1.0F)};  // of the raw row
    u32* const larger = &shared.larger[raw ? 1 : 0];
    float chosen = 0;
    if (raw) {
      chosen = clean_logit(to_float(logits()[left.token]));
      if (infinite) chosen = chosen == kInfinity ? 0.0F : -kInfinity;
    } else if (!alone) {
      chosen = value_of_token(row, left.token);
    }
    if (!alone) {
      u64 mass = 0;
      u32 above = 0;
      row.for_values([&](i32, const float(&values)[kClusterRun]) {
#pragma unroll
        for (i32 j = 0; j < kClusterRun; ++j) {
          above += values[j] > chosen ? 1 : 0;
          if (raw) mass += converted_weight(values[j], scale);
        }
      });
      mass = sum_of_warp(mass);
      above = warp_sum(above);
      if (lane_id() == 0) {
        if (raw) store_remote(&memory.totals[row.warp], 0, mass);
        add_remote(larger, 0, above);
      }
    }
    memory.bins[0][thread_id()] = {0, 0};
    if (thread_id() == 0) {
      memory.num_listed = 0;
      memory.numbers.top_k = wanted.n;
      memory.numbers.top_p = 1;
    }
    sync_cluster();
    if (!leads() || warp_id() != 0) return;
    const u64 mass = total_of_warps(row);
    if (lane_id() != 0) return;
    if (raw) left = {false, infinite, left.token, {-kInfinity, kLastId}, 0, scale, mass};
    if (wanted.ranks != nullptr)
      wanted.ranks[index() * wanted.ranks_stride] = 1 + static_cast<i32>(*larger);
    if (wanted.chosen != nullptr)
      wanted.chosen[index() * wanted.chosen_stride] =
          chosen > -kInfinity ? left.log_prob(chosen) : -kInfinity;
  }

  // The best n of those that are kept: what a filter top-k has left of the row.
  TW_DEVICE void tell_best(const LogProbParams& wanted, const RowLeft& rest, bool alone,
                           const BinTurns& turns) {
    ClusterMemory& memory = shared.row;
    const bool many = wanted.n > kMostListed;
    u64* entries = many ? reinterpret_cast<ClusterManyBestMemory&>(shared).entries : memory.own();
    i32 count = rest.listed;
    if (count > kMostListed) {
      sync_cluster();  // all have read what warps told of masses
      count = gather_kept(row, rest.threshold, entries);
    }
    // The leader's memory is there until all have read in it.
    arrive_at_cluster();
    if (leads()) {
      if (alone) {
        if (thread_id() == 0) entries[0] = entry_of(0, shared.left.token);
        count = 1;
      }
      if (many) {
        sort_best(entries, count);
      } else {
        sort_list(entries, turns.other(memory), count);
        entries = turns.other(memory);
      }
      const KeptOfRow& left = shared.left;
#pragma unroll 1
      for (i32 i = thread_id(); i < wanted.n; i += num_threads()) {
        const u64 entry = i < count ? entries[i] : 0;
        const float value = value_of_entry(entry);
        const i32 id = id_of_entry(entry);
        const bool has = i < count && left.has(id, value);
        wanted.best[index() * wanted.best_stride + i] = has ? left.log_prob(value) : -kInfinity;
        wanted.best_ids[index() * wanted.best_ids_stride + i] = has ? id : -1;
      }
    }
    wait_for_cluster();
  }
};

// The draw, what is said of the row that it was from, and what is said of the one that was given:
// turns of one loop, as it is long code to read a row, and to find where a filter or the best n
// end.
template <typename T>
TW_DEVICE void cluster_outputs(const SampleParams& p) {
  ClusterOutputsMemory& shared = *reinterpret_cast<ClusterOutputsMemory*>(shared_memory());
  ClusterMemory& memory = shared.row;
  OutputsOfRow<T> of{p, shared, {memory, p.vocabulary, p.warp_logits}, {}, false};
  const bool asked = kIsSame<T, float> && p.aligned != 0;
  if constexpr (kIsSame<T, float>) {
    if (asked) ask_for_row(of.row, of.logits());
  }
  if (thread_id() == 0) shared.larger[0] = shared.larger[1] = 0;
  begin_cluster(memory);
  of.process();
  if (asked) wait_for_row(of.row);
#pragma unroll 1
  for (i32 turn = 0; turn < 3; ++turn) {
    const bool draws = turn == 0;
    const bool raw = turn == 2;
    const LogProbParams& wanted = raw ? p.outputs.raw : p.outputs.processed;
    if (raw && !is_wanted(wanted)) return;
    // Read in each turn: else all that follows from it would be computed before, and kept.
    of.row.warp_logits = shared.warp_logits;
    of.infinite = !draws && shared.left.infinite;
    if (draws || (raw && !of.restore())) {
      // What is in f32 is read again by single logits, from the L2 cache: runs take registers.
      const bool aligned = kIsSame<T, float> ? draws & asked : p.aligned != 0;
      of.extremes = read_row(of.row, of.logits(), draws & asked, aligned, [&] {
        if (draws) of.keep_numbers_of_row();
      });
    }
    const bool alone = draws ? !shared.known || of.has_none() : !raw && shared.left.alone;
    if (draws) {
      of.tell_status();
      if (alone) of.choose_alone();
    }
    if ((draws & !alone) | raw) of.treat_infinite();
    if (!(draws | raw)) store_row<T>(p.outputs, of.index(), of.row, shared.left);
    if (!draws) {
      if (!is_wanted(wanted)) continue;
      of.tell_chosen(wanted, raw);
      if (wanted.best == nullptr) continue;
    }
    const WeightScale scale{of.extremes.largest, draws && !alone ? memory.scale : 1};
    RowLeft rest{-kInfinity, 0, 0, 0};
    BinTurns turns{0};
    if (!alone && !of.has_none())
      rest = filter_row(of.row, p.order, memory.numbers, of.extremes, of.infinite, scale, turns);
    if (draws) {
      of.draw(rest, scale, alone, turns);
    } else {
      of.tell_best(wanted, rest, alone, turns);
    }
  }
}

}  // namespace tw
