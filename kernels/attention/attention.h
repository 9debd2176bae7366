// SPDX-License-Identifier: Apache-2.0
// The kernels of one attention: tilewright_attention runs a plan, tilewright_join_levels joins what
// several levels gave for one query.
#pragma once

#include "attention/decode.h"
#include "attention/memory_size.h"
#include "attention/prefill.h"

namespace tw {

// A part of an item, or all of it.
struct Piece {
  plan::Item item;
  i64 index;  // of the item in its section
  i32 begin;  // blocks, of those that the tile needs
  i32 end;    // -1: all the rest
  i32 slot;   // where the result of a part goes; -1: it is the whole item
  enum Kind : i32 { none, some } kind;
};

// The last i of [begin, end) for which value_at(i) is at most `limit`, where the values do not fall
// and that of `begin` is. By all lanes of a warp, which look at 32 values at a time: each look
// waits for memory.
template <typename ValueAt>
TW_DEVICE i32 find_by_warp(i32 begin, i32 end, i64 limit, const ValueAt& value_at) {
  while (end - begin > 1) {
    const i32 step = (end - begin + kWarpSize - 1) / kWarpSize;
    const i32 at = begin + lane_id() * step;
    begin += (count_bits(ballot(at < end && value_at(at) <= limit)) - 1) * step;
    if (begin + step < end) end = begin + step;
  }
  return begin;
}

// A block's way through its share of section B. In shared memory, as only one thread walks.
struct Share {
  i32 worker;
  plan::Cut from;
  plan::Cut to;
  i64 index;
  bool no_a_items;  // none was left when the block asked
};

struct WorkerState {
  Tile tile;
  Piece piece;
  Piece next;
  plan::Split split;  // of the piece, where it is a part
  i32 split_index;
  Share share;
};

template <bool kDecodeOnly>
struct WorkerMemory : WorkerState {
  union {
    PrefillMemory prefill;
    DecodeMemory decode;
    MergeMemory merge;
  };
};
template <>
struct WorkerMemory<true> : WorkerState {
  union {
    DecodeMemory decode;
    MergeMemory merge;
  };
};

static_assert(sizeof(WorkerMemory<Spec::kDecodeOnly>) <=
              attention_shared_bytes(Spec::kHeadDim, Spec::kValueDim, Spec::kBlock,
                                     Spec::kDecodeStages, Variant::kRopeDim, kBlockForm,
                                     Spec::kDecodeOnly));

// A block of threads at work on one plan. Plans whose limits leave room for decode alone have a
// kernel that needs less of an SM.
template <bool kDecodeOnly>
class Worker {
 public:
  using Memory = WorkerMemory<kDecodeOnly>;

  TW_DEVICE explicit Worker(const AttentionParams& params)
      : p(params),
        memory(*reinterpret_cast<Memory*>(shared_memory())),
        schedule(params.plan.schedule) {}

  // Shares of section B are the longest pieces of work, so they go first; then section A, from its
  // longest items on.
  TW_DEVICE void run() {
    if (is_finder()) {
      memory.share.no_a_items = schedule.header->a_items == 0;
      begin_share(schedule.header->b_items > 0 ? block_id() : schedule.header->workers);
      memory.next = next_of_share();
    }
    // To find the next piece takes several latencies of memory, so it is done while others wait for
    // keys. But of the last items of section A none is taken before the block is about to be free:
    // one that held two would leave none for another.
    const auto at_begin = [&] {
      if (memory.piece.slot >= 0 && warp_id() == Shape::kWarps - 1) find_split();
      if (!is_finder()) return;
      memory.next = next_of_share();
      if (memory.next.kind == Piece::none && many_a_items_left()) memory.next = take_a_item();
    };
    const auto at_end = [&] {
      if (is_finder() && memory.next.kind == Piece::none) memory.next = take_a_item();
    };
    at_end();
    for (;;) {
      sync_block();
      if (memory.next.kind == Piece::none) break;
      if (thread_id() == 0) memory.piece = memory.next;
      set_up_tile(p, memory.next.item, memory.next.begin, memory.next.end, memory.tile);
      const i32 count = memory.tile.part_end - memory.tile.first_block;
      if (is_decode()) {
        Decode decode(p, memory.tile, memory.decode);
        decode.run(count, at_begin, at_end);
        decode.store(memory.piece.slot);
      } else if constexpr (!kDecodeOnly) {
        Prefill prefill(p, memory.tile, memory.prefill);
        prefill.run(count, at_begin, at_end);
        prefill.store(memory.piece.slot);
      }
      if (memory.piece.slot >= 0) merge_if_last();
    }
    if (p.zero_padding != 0) zero_padding(schedule.header->q_tokens);
  }

 private:
  TW_DEVICE bool is_decode() const {
    return kDecodeOnly || (memory.tile.num_rows <= Shape::kDecodeRows && !p.plan.batch_invariant);
  }
  // One thread of the last warp: the first ones have more to do.
  TW_DEVICE bool is_finder() const { return thread_id() == Shape::kThreads - 1; }

  // The following are its alone.
  TW_DEVICE void begin_share(i32 worker) {
    Share& share = memory.share;
    share.worker = worker;
    if (worker >= schedule.header->workers) return;
    share.from = schedule.cuts[worker];
    share.to = schedule.cuts[worker + 1];
    share.index = share.from.item;
  }

  TW_DEVICE Piece next_of_share() {
    Share& share = memory.share;
    Piece piece{{}, 0, 0, -1, -1, Piece::none};
    for (; share.worker < schedule.header->workers; begin_share(share.worker + num_blocks())) {
      if (share.index > share.to.item || (share.index == share.to.item && share.to.block == 0)) {
        continue;
      }
      const bool from_start = share.index != share.from.item || share.from.block == 0;
      const bool to_end = share.index != share.to.item;
      piece.index = share.index;
      piece.begin = from_start ? 0 : share.from.block;
      piece.end = to_end ? -1 : share.to.block;
      if (!from_start || !to_end) {
        piece.slot = from_start ? plan::second_slot(share.worker) : plan::first_slot(share.worker);
      }
      piece.item = plan::b_item(schedule, share.index++);
      piece.kind = Piece::some;
      return piece;
    }
    return piece;
  }

  TW_DEVICE bool many_a_items_left() const {
    return !memory.share.no_a_items &&
           load_relaxed(p.a_taken) < schedule.header->a_items - 2 * num_blocks();
  }
  TW_DEVICE Piece take_a_item() {
    const i64 items = schedule.header->a_items;
    Piece piece{{}, 0, 0, -1, -1, Piece::none};
    if (memory.share.no_a_items) return piece;
    piece.index = atomic_add(p.a_taken, 1);
    // Each block asks once in vain; the last one of these leaves the counter as it was.
    if (piece.index == items + num_blocks() - 1) *p.a_taken = 0;
    if (piece.index >= items) {
      memory.share.no_a_items = true;
      return piece;
    }
    piece.item = plan::a_item(schedule, piece.index);
    piece.kind = Piece::some;
    return piece;
  }

  // Of the piece, by a warp.
  TW_DEVICE void find_split() {
    const i32 at = find_by_warp(0, schedule.header->num_splits, memory.piece.index,
                                [&](i32 split) { return schedule.splits[split].item; });
    if (lane_id() == 0) {
      memory.split = schedule.splits[at];
      memory.split_index = at;
    }
  }

  // The block that finishes the last part of a split item merges all parts. Where all rows are to
  // be joined with those of other levels, that is left to the join, which many blocks do.
  TW_DEVICE void merge_if_last() {
    const Tile& tile = memory.tile;
    if (!any_of_block(thread_id() < tile.num_rows &&
                      !is_joined(p, tile.rows[thread_id()].q_index))) {
      if (memory.piece.begin == 0) leave_parts(p, tile, memory.split_index);
      return;
    }
    if (thread_id() == 0) {
      i32* const arrivals = p.split_arrivals + memory.split.first;
      const bool last = atomic_add_acq_rel(arrivals, 1) == memory.split.last - memory.split.first;
      if (last) *arrivals = 0;
      memory.tile.message = last ? 1 : 0;
    }
    sync_block();
    if (tile.message != 0) merge_parts(p, tile, memory.split, memory.merge);
  }

  TW_DEVICE void zero_padding(i32 q_tokens) {
    const i32 heads = schedule.config.num_kv_heads * Spec::kGroupSize;
    using Out = Spec::Out;
    const i64 rows = static_cast<i64>(p.padded_tokens - q_tokens) * heads;
    for (i64 i = block_id(); i < rows; i += num_blocks()) {
      const i64 token = q_tokens + i / heads;
      const i64 head = i % heads;
      Out* const out = reinterpret_cast<Out*>(p.out + token * p.out_token + head * p.out_head);
      for (i32 d = thread_id(); d < Spec::kValueDim; d += Shape::kThreads) {
        out[d] = from_float<Out>(0.0F);
      }
      if (p.lse != nullptr && thread_id() == 0) {
        p.lse[token * p.lse_token + head * p.lse_head] = -kInfinity;
      }
    }
  }

  const AttentionParams& p;
  Memory& memory;
  const plan::Schedule& schedule;
};

// What several levels, or their parts, gave for one (token, q head): a list of partial results, in
// order, outermost level first. By all lanes of a warp; a lane a level.
class RowParts {
 public:
  TW_DEVICE RowParts(const AttentionParams& params, u32 levels, i64 the_token, i32 the_head)
      : p(params), token(the_token), head(the_head) {
    i32 count = 0;
    if (lane_id() < p.plan.num_levels && (levels >> lane_id() & 1U) != 0) {
      count = 1;
      const Partial at = level_row(p, lane_id(), token, head);
      if (is_left_in_parts(at)) {
        const plan::Split split = p.plan.schedule.splits[split_of_parts(at)];
        first_worker = split.first;
        tile_row = static_cast<i32>(*at.m);
        count = plan::parts_of(split);
      }
    }
    end = count;
#pragma unroll
    for (i32 distance = 1; distance < kWarpSize; distance *= 2) {
      const i32 before = shuffle_up(end, distance);
      if (lane_id() >= distance) end += before;
    }
  }

  TW_DEVICE i32 count() const {
    return shuffle(end, kWarpSize - 1);
  }

  // The i-th one; i may differ from lane to lane.
  TW_DEVICE Partial operator[](i32 i) const {
    i32 level = 0;
    i32 begin = 0;
    for (i32 other = 0; other < p.plan.num_levels; ++other) {
      const i32 other_end = shuffle(end, other);
      if (other_end <= i) {
        level = other + 1;
        begin = other_end;
      }
    }
    const i32 worker = shuffle(first_worker, level);
    const i32 r = shuffle(tile_row, level);
    if (worker < 0) return level_row(p, level, token, head);
    return row_of_slot(p, plan::slot_of_part(worker, i - begin), r);
  }

 private:
  const AttentionParams& p;
  const i64 token;
  const i32 head;
  // Of this lane's level:
  i32 first_worker = -1;  // of the split item that has the row; -1: it is in one piece
  i32 tile_row = 0;
  i32 end = 0;  // of its partial results in the list
};

// By a warp: joins the levels' results of one (token, q head).
TW_DEVICE void join_levels_of_row(const AttentionParams& p, i64 token, i32 head) {
  const u32 levels = p.plan.token_levels[token];
  if (levels != 0 && !is_joined(p, token)) return;  // its one row has written the output
  constexpr i32 kAtOnce = 8;                        // loads under way
  QueryRow row;
  row.batch = p.plan.request_of(token);
  const plan::Request request = p.plan.requests[row.batch];
  row.q_pos = static_cast<i32>(p.plan.position_of_query(request, token));
  row.q_head = head;
  row.kv_head = head / Spec::kGroupSize;
  row.q_len = request.q_len;
  row.kv_len = request.kv_len;
  row.q_index = static_cast<i32>(token);
  row.q_begin = request.q_begin;
  const RowParts parts(p, levels, token, head);
  const i32 count = parts.count();
  float m = -kInfinity;
  float l = 0;
  for (i32 first = 0; first < count; first += kWarpSize) {
    const Partial part = parts[first + lane_id()];
    if (first + lane_id() < count) join(m, l, *part.m, *part.l);
  }
  join_warp(m, l, kWarpSize);
  const float reference = m == -kInfinity ? 0.0F : m;
  // All lanes write the same lse.
  const RowTarget target = finish_row(p, row, has_failed(p, row.batch), m, l);
  for (i32 columns = 0; columns < Spec::kValueDim; columns += kWarpSize * 4) {
    const i32 d = columns + lane_id() * 4;
    const bool exists = d < Spec::kValueDim;
    Float4 o{0, 0, 0, 0};
    for (i32 first = 0; first < count; first += kAtOnce) {
      const Partial part = parts[first + lane_id() % kAtOnce];
      const float by = first + lane_id() % kAtOnce < count ? exp2_fast(*part.m - reference) : 0.0F;
      Float4 other[kAtOnce];
#pragma unroll
      for (i32 k = 0; k < kAtOnce; ++k) {
        const auto* const from =
            reinterpret_cast<const Float4*>(shuffle(reinterpret_cast<u64>(part.o), k));
        other[k] = exists && first + k < count ? from[d / 4] : Float4{0, 0, 0, 0};
      }
#pragma unroll
      for (i32 k = 0; k < kAtOnce; ++k) add(o, 1.0F, other[k], shuffle(by, k));
    }
    if (exists) put_columns(p, row, target, d, o);
  }
}

}  // namespace tw

TW_KERNEL TW_LAUNCH_BOUNDS(tw::Shape::kThreads, tw::Spec::kBlocksPerSm)
    tilewright_attention(TW_PARAMETER tw::AttentionParams params) {
  tw::wait_for_previous_kernel();
  tw::Worker<tw::Spec::kDecodeOnly>(params).run();
}

TW_KERNEL TW_LAUNCH_BOUNDS(256, 1) tilewright_join_levels(TW_PARAMETER tw::AttentionParams params) {
  tw::wait_for_previous_kernel();
  const int heads = params.plan.schedule.config.num_kv_heads * tw::Spec::kGroupSize;
  const tw::i64 rows = static_cast<tw::i64>(params.plan.schedule.header->q_tokens) * heads;
  const tw::i64 warps = static_cast<tw::i64>(tw::num_blocks()) * 8;
  for (tw::i64 row = tw::block_id() * 8 + tw::warp_id(); row < rows; row += warps) {
    tw::join_levels_of_row(params, row / heads, static_cast<int>(row % heads));
  }
}
