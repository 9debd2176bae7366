// SPDX-License-Identifier: Apache-2.0
// verify_maxima() and verify_masses() in one on Hopper and later: a cluster of blocks has a row of
// logits in shared memory, which is read once. Clusters stay: a warp that has weighed a piece of
// its logits asks for the same piece of the next row, so that memory is read all the time.
#pragma once

#include "sampling/cluster_row.h"
#include "sampling/verify_chunks.h"

namespace tw {

inline constexpr i32 kPieceBytes = 2048;  // of a warp's logits: copied at once
inline constexpr i32 kPieces = kBlockBytes / kClusterWarps / kPieceBytes;

// What blocks tell each other of a row is there twice, used in turn: the rows before and behind it
// are under way, too.
struct ClusterMassMemory {
  alignas(16) char logits[kBlockBytes];
  alignas(16) u32 maxima[2][kWarps];  // of each warp of the cluster
  u32 ids[2][kWarps];                 // the leader's: of greedy rows, each warp's first largest
  u32 nan[2];                         // the leader's: whether a block has seen one
  u64 masses[2];                      // of this block
  Mbarrier landed[kClusterWarps][kPieces];
};
static_assert(sizeof(ClusterMassMemory) <= kClusterSharedBytes);

// A row that a cluster has, or will have.
template <typename T>
struct AskedRow {
  const T* logits;  // null: there are no more rows
  i64 request;
  i64 entry;
  i32 number;
  i32 node;
  bool draft;
  bool aligned;
};

// The first row from `number` on that somebody asks for, of every `clusters`-th.
template <typename T>
TW_DEVICE AskedRow<T> next_row(const VerifyParams& p, i32 number, i32 clusters) {
  AskedRow<T> row{};
  const i32 rows = p.requests * (p.nodes + p.drafts);
#pragma unroll 1
  for (row.number = number; row.number < rows; row.number += clusters) {
    if (!find_row(p, row.number, row.request, row.node, row.draft)) continue;
    if (!find_entry(p.sample, row.request, row.entry)) continue;
    row.logits = logits_of<T>(row.draft ? p.draft : p.target, row.request, row.node);
    row.aligned = (row.draft ? p.draft_aligned : p.target_aligned) != 0;
    break;
  }
  return row;
}

// This warp's logits of each row. Its members are called by its lanes together.
template <typename T>
struct WarpLogits {
  static constexpr i32 kPiece = kPieceBytes / static_cast<i32>(sizeof(T));  // logits
  static_assert(kPiece % kClusterStep == 0);

  ClusterMassMemory& memory;
  i32 begin;  // in the row
  i32 count;
  i32 pieces;
  T* logits;
  u32 parity;  // of the copies that are under way

  TW_DEVICE WarpLogits(ClusterMassMemory& shared, i32 warp, i32 vocabulary, i32 warp_logits)
      : memory(shared), begin(warp * warp_logits), parity(0) {
    const i32 rest = vocabulary - begin;
    count = rest < 0 ? 0 : rest < warp_logits ? rest : warp_logits;
    pieces = (count + kPiece - 1) / kPiece;
    logits = reinterpret_cast<T*>(memory.logits) + warp_id() * warp_logits;
  }

  TW_DEVICE i32 of_piece(i32 piece) const {
    const i32 rest = count - piece * kPiece;
    return rest < kPiece ? rest : kPiece;
  }
  TW_DEVICE Mbarrier* landed(i32 piece) const { return &memory.landed[warp_of_thread()][piece]; }

  // Whole units of 16 bytes of a piece.
  TW_DEVICE void ask(const T* row, i32 piece) const {
    const u32 bytes = static_cast<u32>(of_piece(piece) * sizeof(T)) / 16 * 16;
    mbarrier_arrive_expect_if(lane_id() == 0, landed(piece), bytes);
    if ((lane_id() == 0) & (bytes > 0)) {
      copy_bulk(logits + piece * kPiece, row + begin + piece * kPiece, bytes, landed(piece));
    }
    sync_warp();
  }

  // Waits for a piece that was asked for, or else copies it; fills its last step with what weighs
  // nothing and is no maximum.
  TW_DEVICE void take(const AskedRow<T>& row, i32 piece) const {
    const i32 num = of_piece(piece);
    T* const to = logits + piece * kPiece;
    i32 done = 0;
    if (row.aligned) {
      mbarrier_wait(landed(piece), parity);
      done = num - num % static_cast<i32>(16 / sizeof(T));
    }
    if (done == num && num % kClusterStep == 0) return;
    const T* const from = row.logits + begin + piece * kPiece;
#pragma unroll 4
    for (i32 at = done + lane_id(); at < num; at += kWarpSize) to[at] = from[at];
    const i32 end = (num + kClusterStep - 1) / kClusterStep * kClusterStep;
#pragma unroll 1
    for (i32 at = num + lane_id(); at < end; at += kWarpSize) to[at] = from_float<T>(-kInfinity);
    sync_warp();
  }

  // body(id, values) of a piece.
  template <typename Body>
  TW_DEVICE void for_piece(i32 piece, const Body& body) const {
    const i32 end = of_piece(piece);
    const T* const from = logits + piece * kPiece + lane_id() * kClusterRun;
    const i32 first = begin + piece * kPiece + lane_id() * kClusterRun;
#pragma unroll 4
    for (i32 at = 0; at < end; at += kClusterStep) {
      float values[kClusterRun];
      load_run(from + at, values);
      body(first + at, values);
    }
  }
  template <typename Body>
  TW_DEVICE void for_all(const Body& body) const {
#pragma unroll 1
    for (i32 piece = 0; piece < pieces; ++piece) for_piece(piece, body);
  }
};

// What is left of a row behind the barrier that follows its weights.
template <typename T>
struct WeighedRow {
  AskedRow<T> row;
  float largest;
  bool nan;  // of the leader
};

// Stores a block's mass of a row, and the leader the row's summary. By the first warp.
template <typename T>
TW_DEVICE void store_weighed(const VerifyParams& p, ClusterMassMemory& memory, i32 turn,
                             const WeighedRow<T>& weighed) {
  const AskedRow<T>& row = weighed.row;
  u64 mass = 0;
  if (lane_id() == 0) {
    mass = memory.masses[turn];
    memory.masses[turn] = 0;
  }
  u32 id = ~0U;
#pragma unroll 1
  for (i32 warp = lane_id(); warp < cluster_size() * kClusterWarps; warp += kWarpSize)
    id = memory.ids[turn][warp] < id ? memory.ids[turn][warp] : id;
  id = warp_min(id);
  const Chunk chunk{row.request, row.node, row.draft, cluster_rank(), 0, 0};
  store_mass(RequestWorkspace(p, row.request), chunk, cluster_size(), mass,
             summary_of_unfiltered(weighed.largest, static_cast<i32>(id),
                                   numbers_of_entry(p.sample, row.entry), weighed.nan));
}

template <typename T>
TW_DEVICE void verify_cluster_masses(const VerifyParams& p) {
  ClusterMassMemory& memory = *reinterpret_cast<ClusterMassMemory*>(shared_memory());
  const i32 blocks = cluster_size();
  const i32 clusters = num_blocks() / blocks;
  const i32 warp = cluster_rank() * kClusterWarps + warp_id();
  WarpLogits<T> mine(memory, warp, p.sample.vocabulary, p.sample.warp_logits);
  AskedRow<T> row = next_row<T>(p, block_id() / blocks, clusters);
#pragma unroll 1
  for (i32 piece = lane_id(); piece < kPieces; piece += kWarpSize)
    mbarrier_init(mine.landed(piece), 1);
  sync_warp();
#pragma unroll 1
  for (i32 piece = 0; piece < mine.pieces; ++piece) {
    if (row.logits != nullptr && row.aligned) mine.ask(row.logits, piece);
  }
  if (thread_id() < 2) {
    memory.masses[thread_id()] = 0;
    memory.nan[thread_id()] = 0;
  }
  sync_cluster();
  let_next_kernel_start();
  WeighedRow<T> before{};
  i32 turn = 0;
#pragma unroll 1
  while (row.logits != nullptr) {
    float largest = -kInfinity;
#pragma unroll 1
    for (i32 piece = 0; piece < mine.pieces; ++piece) {
      mine.take(row, piece);
      mine.for_piece(piece, [&](i32, const float(&values)[kClusterRun]) {
#pragma unroll
        for (i32 j = 0; j < kClusterRun; ++j) largest = max_or_nan(largest, values[j]);
      });
    }
    if (row.aligned) mine.parity ^= 1;
    if (any_of_warp(largest != largest)) {
      if (lane_id() == 0) store_remote(&memory.nan[turn], 0, 1U);
      largest = -kInfinity;
      mine.for_all([&](i32, const float(&values)[kClusterRun]) {
#pragma unroll
        for (i32 j = 0; j < kClusterRun; ++j) largest = max_of(largest, values[j]);
      });
    }
    const u32 of_warp = warp_max(key_of_logit(largest));
    if (lane_id() < blocks) store_remote(&memory.maxima[turn][warp], lane_id(), of_warp);
    sync_cluster();
    if (warp_id() == 0 && before.row.logits != nullptr) store_weighed(p, memory, turn ^ 1, before);
    u32 first = 0;
    if (4 * lane_id() < blocks * kClusterWarps) {
      const Bytes16 keys = load_16(&memory.maxima[turn][4 * lane_id()]);
#pragma unroll
      for (i32 i = 0; i < 4; ++i) first = keys.word[i] > first ? keys.word[i] : first;
    }
    before = {row, of_order_key(warp_max(first)), false};
    if (warp_id() == 0) {
      before.nan = memory.nan[turn] != 0;
      sync_warp();
      if (lane_id() == 0) memory.nan[turn] = 0;  // in this turn nobody says it again
    }
    const AskedRow<T> next = next_row<T>(p, row.number + clusters, clusters);
    const float temperature = value_of_entry(p.sample.temperature, row.entry);
    const bool infinite = before.largest == kInfinity;
    const bool weighs = (temperature > 0) & (before.largest > -kInfinity);
    const WeightScale scale{infinite ? 0 : before.largest, scale_of_temperature(temperature)};
    if (!weighs) {
      u32 id = ~0U;
      if (any_of_warp(largest == before.largest)) {
        mine.for_all([&](i32 at, const float(&values)[kClusterRun]) {
          id = first_of_run(at, values, before.largest, id);
        });
      }
      id = warp_min(id);
      if (lane_id() == 0) store_remote(&memory.ids[turn][warp], 0, id);
    }
    u64 mass = 0;
#pragma unroll 1
    for (i32 piece = 0; piece < mine.pieces; ++piece) {
      if (weighs & !infinite) {
        mine.for_piece(piece, [&](i32, const float(&values)[kClusterRun]) {
#pragma unroll
          for (i32 j = 0; j < kClusterRun; ++j) mass += converted_weight(values[j], scale);
        });
      } else if (weighs) {
        mine.for_piece(piece, [&](i32, const float(&values)[kClusterRun]) {
#pragma unroll
          for (i32 j = 0; j < kClusterRun; ++j) mass += values[j] == kInfinity ? kOne : 0;
        });
      }
      // What was copied by threads, before what lands there.
      if (!row.aligned) fence_async_proxy();
      sync_warp();
      if (next.logits != nullptr && next.aligned) mine.ask(next.logits, piece);
    }
    mass = sum_of_warp(mass);
    if (lane_id() == 0) atomic_add_64(&memory.masses[turn], mass);
    row = next;
    turn ^= 1;
  }
  if (before.row.logits == nullptr) return;
  sync_cluster();
  if (warp_id() == 0) store_weighed(p, memory, turn ^ 1, before);
}

}  // namespace tw
