// SPDX-License-Identifier: Apache-2.0
// The kernels of one attention: tilewright_attention runs a plan, tilewright_join_levels joins what
// several levels gave for one query.
#pragma once

#include "attention/decode.h"
#include "attention/memory_size.h"
#include "attention/prefill.h"

namespace tw {

// A block's way through its shares of section B: a worker is as many blocks as items have heads at
// the most, and each computes one of them. In shared memory, as only one thread walks.
struct Share {
  plan::Start start;
  i32 worker;
  i32 done;              // of start.items
  bool no_a_items;       // none was left when the block asked
  bool first_is_placed;  // the first tile's keys and blocks are set up
};

struct WorkerState {
  Piece pieces[kPieces];  // the current one, and what is known of those behind it
  Share share;
  i32 message;  // from one thread to all
};

template <bool kDecodeOnly>
struct WorkerMemory : WorkerState {
  union {
    PrefillMemory prefill;
    DecodeMemory decode;
  };
};
template <>
struct WorkerMemory<true> : WorkerState {
  DecodeMemory decode;
};

static_assert(sizeof(WorkerMemory<Spec::kDecodeOnly>) <=
              attention_shared_bytes(Spec::kHeadDim, Spec::kValueDim, Spec::kBlock,
                                     Spec::kDecodeStages, Variant::kRopeDim, kOneSpan,
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
    if (is_finder()) find_first();
    sync_block();
    while (memory.pieces[0].kind != Piece::none) {
      if (memory.pieces[0].kind == Piece::few_rows) {
        run_decodes();
      } else if constexpr (!kDecodeOnly) {
        run_prefill();
      }
      sync_block();
    }
    if (p.zero_padding != 0) zero_padding(schedule.header->q_tokens);
  }

 private:
  // One thread of the last warp: the first ones have more to do.
  TW_DEVICE bool is_finder() const { return thread_id() == Shape::kThreads - 1; }

  // Pieces of few rows, from pieces[0] on, which follow each other; the piece behind them is
  // pieces[0] then. While one piece is computed, two warps set up the rows of the next, and the
  // keys and blocks of the one behind that.
  TW_DEVICE void run_decodes() {
    Decode decode(p, memory.pieces, memory.decode);
    for (i32 step = memory.share.first_is_placed ? 1 : 0;; step = step == 0 ? 1 : 2) {
      if (step == 1) decode.begin();
      const i32 at = decode.current();
      prepare(at, step);
      if (step == 0) {
        sync_block();
        continue;
      }
      if (step == 1) {
        decode.take_queries();
        continue;
      }
      decode.run();
      const i32 next = next_piece(at);
      const bool goes_on = memory.pieces[next].kind == Piece::few_rows;
      decode.store(goes_on);
      // Of the last items of section A none is taken before the block is about to be free: one that
      // held two would leave none for another.
      if (is_finder() && memory.pieces[next].kind == Piece::none) take_a_item(memory.pieces[next]);
      const bool is_part = memory.pieces[at].slot >= 0;
      sync_block();
      if (is_part) merge_if_last(memory.decode.tiles[at], memory.pieces[at]);
      if (!goes_on) {
        if (is_finder()) move_up(memory.pieces[next]);
        return;
      }
      decode.go_on();
    }
  }

  // Step 0: sets up keys and blocks of pieces[at]. Step 1, before it is computed: its rows, and the
  // next piece's keys and blocks. From then on: the same for the pieces one further on.
  TW_DEVICE void prepare(i32 at, i32 step) {
    const i32 warp = warp_id();
    const i32 rows = step < 2 ? at : next_piece(at);
    if (warp == Shape::kWarps - 2 && step > 0) prepare_rows(at, rows, step);
    if (warp != Shape::kWarps - 1) return;
    const i32 place = step == 0 ? at : next_piece(rows);
    if (step > 0) {
      if (memory.pieces[rows].kind != Piece::few_rows) return;
      if (is_finder()) find_next(memory.pieces[rows], memory.pieces[place]);
      sync_warp();
    }
    if (memory.pieces[place].kind != Piece::few_rows) return;
    DecodeTile& tile = memory.decode.tiles[place];
    if (lane_id() == 0) set_up_keys(p, memory.pieces[place], tile);
    if (is_finder()) set_up_blocks(p, memory.pieces[place], tile);
  }
  TW_DEVICE void prepare_rows(i32 at, i32 rows, i32 step) {
    if (lane_id() >= Shape::kDecodeRows) return;
    if (memory.pieces[rows].kind == Piece::few_rows) {
      set_up_query_row<false>(p, memory.pieces[rows], lane_id(), memory.decode.tiles[rows]);
    }
    if (step < 2) return;
    // What is waited for, but not needed before the piece's end.
    Piece& piece = memory.pieces[at];
    TileRow& row = memory.decode.tiles[at].rows[lane_id()];
    if (lane_id() == 0 && piece.slot >= 0) piece.split = schedule.splits[piece.split_index];
    row.failed = has_failed(p, row.batch);
  }

  // pieces[0]; the piece behind it is pieces[0] then.
  TW_DEVICE void run_prefill() {
    Piece& piece = memory.pieces[0];
    Piece& next = memory.pieces[1];
    PrefillTile& tile = memory.prefill.tile;
    if (thread_id() == Shape::kThreads - kWarpSize) set_up_keys(p, piece, tile);
    if (is_finder()) set_up_blocks(p, piece, tile);
    for (i32 r = thread_id(); r < PrefillTile::kMostRows; r += Shape::kThreads) {
      set_up_query_row<true>(p, piece, r, tile);
    }
    sync_block();
    Prefill prefill(p, memory.prefill);
    // To find the next piece takes several latencies of memory, so it is done while others wait for
    // keys.
    const auto at_begin = [&] {
      if (!is_finder()) return;
      find_next(piece, next);
      if (piece.slot >= 0) piece.split = schedule.splits[piece.split_index];
      if (next.kind == Piece::none && many_a_items_left()) take_a_item(next);
    };
    const auto at_end = [&] {
      if (is_finder() && next.kind == Piece::none) take_a_item(next);
    };
    prefill.run(tile.part_end - tile.first_block, at_begin, at_end);
    prefill.store(piece.slot);
    const bool is_part = piece.slot >= 0;
    sync_block();
    if (is_part) merge_if_last(tile, piece);
    if (is_finder()) move_up(next);
  }

  // Of an item: a power of two, so that nothing waits for a division.
  TW_DEVICE u32 most_heads() const {
    return kDecodeOnly ? static_cast<u32>(schedule.config.max_heads) : 1;
  }
  TW_DEVICE i32 worker_of_block() const { return block_id() >> lowest_bit(most_heads()); }
  TW_DEVICE i32 workers_at_a_time() const { return num_blocks() >> lowest_bit(most_heads()); }

  // The following are the finder's alone.

  TW_DEVICE void find_first() {
    memory.share.no_a_items = kDecodeOnly || schedule.header->a_items == 0;
    begin_share(worker_of_block());
    Piece& piece = memory.pieces[0];
    const plan::Start start = memory.share.start;
    memory.share.first_is_placed = false;
    if (start.items == 0 || start.request < 0) {
      find_next(piece, piece);
      if (piece.kind == Piece::none) take_a_item(piece);
      return;
    }
    // All that the first keys' addresses follow from is known.
    piece.row.index = start.request;
    piece.row.q_begin = start.q_begin;
    piece.row.q_len = start.q_len;
    piece.row.kv_len = start.kv_len;
    piece.row.level = piece.row.segment = piece.row.kv_pos = 0;
    piece.row.tiles = 1;
    piece.has_q_pos = true;
    piece.q_pos = start.q_pos;
    piece.item = start.item;
    // Rows of few queries have as many heads an item as there may be.
    piece.row.heads = static_cast<i32>(most_heads());
    set_part(piece);
    if (piece.kind != Piece::few_rows) return;
    memory.share.first_is_placed = true;
    Tile& tile = memory.decode.tiles[0];
    set_up_keys(p, piece, tile);
    if (knows_blocks(start, tile.ranges)) {
      tile.part_end = start.end;
    } else {
      set_up_blocks(p, piece, tile);
    }
  }

  TW_DEVICE void move_up(const Piece& next) {
    memory.pieces[0] = next;
    memory.share.first_is_placed = false;
  }

  TW_DEVICE void begin_share(i32 worker) {
    memory.share.start = schedule.starts[worker];
    memory.share.worker = worker;
    memory.share.done = 0;
  }

  // The piece of the block's shares behind `last`, or none.
  TW_DEVICE void find_next(const Piece& last, Piece& piece) {
    Share& share = memory.share;
    const plan::Start& start = share.start;
    while (share.done == start.items) {
      piece.kind = Piece::none;
      const i32 worker = share.worker + workers_at_a_time();
      if (worker >= schedule.config.workers) return;
      begin_share(worker);
    }
    const bool same_row = share.done > 0 && go_to_next_item(last, piece);
    if (share.done == 0) piece.item = start.item;
    piece.row = same_row ? last.row : schedule.rows[piece.item.row];
    piece.has_q_pos = same_row && last.has_q_pos;
    piece.q_pos = last.q_pos;
    set_part(piece);
  }

  // Whether it is in the same row.
  TW_DEVICE bool go_to_next_item(const Piece& last, Piece& piece) const {
    if (!kDecodeOnly && last.item.row < schedule.header->num_a_rows) {
      const i64 first = schedule.cuts[memory.share.worker].item;
      piece.item = plan::b_item(schedule, first + memory.share.done);
      return false;
    }
    piece.item = last.item;
    if (++piece.item.tile < last.row.tiles) return true;
    piece.item.tile = 0;
    piece.item.head += last.row.heads;
    if (piece.item.head < schedule.config.num_kv_heads) return true;
    piece.item.head = 0;
    ++piece.item.row;
    return false;
  }

  // Which part of its item the share's next piece is.
  TW_DEVICE void set_part(Piece& piece) {
    Share& share = memory.share;
    const plan::Start& start = share.start;
    const bool is_first = share.done == 0;
    const bool is_cut_behind = share.done + 1 == start.items && start.last_end > 0;
    piece.begin = is_first ? start.begin : 0;
    piece.end = is_first ? start.end : is_cut_behind ? start.last_end : -1;
    piece.head = piece.item.head + (block_id() & static_cast<i32>(most_heads() - 1));
    piece.slot = -1;
    if (piece.begin > 0) piece.slot = slot_of(p, plan::first_slot(share.worker), piece.head);
    if (piece.begin == 0 && is_cut_behind) {
      piece.slot = slot_of(p, plan::second_slot(share.worker), piece.head);
    }
    piece.split_index = start.split + (!is_first && start.begin > 0 ? 1 : 0);
    ++share.done;
    set_kind(piece);
  }
  TW_DEVICE void set_kind(Piece& piece) {
    piece.num_rows = plan::rows_of_tile(schedule.config, piece.row, piece.item.tile);
    const bool few = piece.num_rows <= Shape::kDecodeRows && !p.plan.batch_invariant;
    piece.kind = kDecodeOnly || few ? Piece::few_rows : Piece::many_rows;
  }

  TW_DEVICE bool many_a_items_left() const {
    return !memory.share.no_a_items &&
           load_relaxed(p.a_taken) < schedule.header->a_items - 2 * num_blocks();
  }
  TW_DEVICE void take_a_item(Piece& piece) {
    piece.kind = Piece::none;
    if (kDecodeOnly || memory.share.no_a_items) return;
    const i64 items = schedule.header->a_items;
    const i64 index = atomic_add(p.a_taken, 1);
    // Each block asks once in vain; the last one of these leaves the counter as it was.
    if (index == items + num_blocks() - 1) *p.a_taken = 0;
    if (index >= items) {
      memory.share.no_a_items = true;
      return;
    }
    piece.item = plan::a_item(schedule, index);
    piece.row = schedule.rows[piece.item.row];
    piece.has_q_pos = false;
    piece.head = piece.item.head;
    piece.begin = 0;
    piece.end = piece.slot = -1;
    set_kind(piece);
  }

  // The block that finishes the last part of a split item merges all parts. Where all rows are to
  // be joined with those of other levels, that is left to the join, which many blocks do. Behind a
  // barrier after the part is stored; ends with one.
  template <i32 most_rows>
  TW_DEVICE void merge_if_last(const TileOf<most_rows>& tile, const Piece& piece) {
    const auto is_merged = [&] {
      bool some = false;
      for (i32 r = thread_id(); r < tile.num_rows; r += Shape::kThreads) {
        some = some || !is_joined(p, tile.rows[r].q_index);
      }
      return any_of_block(some);
    };
    if (!rows_are_requests(p) && !is_merged()) {
      if (piece.begin == 0) leave_parts(p, tile, piece.split_index);
      sync_block();
      return;
    }
    if (thread_id() == 0) {
      i32* const arrivals = p.split_arrivals + slot_of(p, piece.split.first, piece.head);
      const bool last = atomic_add_acq_rel(arrivals, 1) == piece.split.last - piece.split.first;
      if (last) *arrivals = 0;
      memory.message = last ? 1 : 0;
    }
    sync_block();
    if (memory.message != 0) {
      if constexpr (kDecodeOnly) {
        merge_parts(p, tile, piece.split);
      } else {
        merge_parts_apart(p, tile, piece.split);
      }
    }
    sync_block();
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
    const i32 slot = slot_of(p, plan::slot_of_part(worker, i - begin), head / Spec::kGroupSize);
    return row_of_slot(p, slot, r);
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
  // Others mix pieces that wait for memory with those that compute, and early blocks of the next
  // kernel would mix them unevenly.
  if (tw::Spec::kDecodeOnly) tw::let_next_kernel_start();
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
