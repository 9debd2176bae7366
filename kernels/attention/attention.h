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

// A block's way through its share of section B. In shared memory, as only one thread walks.
struct Share {
  i32 worker;
  plan::Cut from;
  plan::Cut to;
  i64 index;
  bool no_a_items;  // none was left when the block asked
};

struct DecodeOnlyMemory {
  Tile tile;
  Piece piece;
  Piece next;
  Share share;
  DecodeMemory decode;
};
struct AttentionMemory {
  Tile tile;
  Piece piece;
  Piece next;
  Share share;
  union {
    PrefillMemory prefill;
    DecodeMemory decode;
  };
};

template <bool kDecodeOnly>
struct WorkerMemory {
  using Type = AttentionMemory;
};
template <>
struct WorkerMemory<true> {
  using Type = DecodeOnlyMemory;
};

static_assert(sizeof(WorkerMemory<Spec::kDecodeOnly>::Type) <=
              attention_shared_bytes(Spec::kHeadDim, Spec::kValueDim, Spec::kBlock,
                                     Spec::kDecodeStages, Variant::kRopeDim, kOneSpan,
                                     Spec::kDecodeOnly));

// A block of threads at work on one plan. Plans whose limits leave room for decode alone have a
// kernel that needs less of an SM.
template <bool kDecodeOnly>
class Worker {
 public:
  using Memory = WorkerMemory<kDecodeOnly>::Type;

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
      if (memory.piece.slot >= 0) merge_if_last(memory.piece.index);
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

  // The block that finishes the last part of a split item merges all parts.
  TW_DEVICE void merge_if_last(i64 item) {
    const plan::Split split = find_split(item);
    sync_block();
    if (thread_id() == 0) {
      i32* const arrivals = p.split_arrivals + split.first;
      const bool last = atomic_add_acq_rel(arrivals, 1) == split.last - split.first;
      if (last) *arrivals = 0;
      memory.tile.message = last ? 1 : 0;
    }
    sync_block();
    if (memory.tile.message != 0) merge(split);
  }
  TW_DEVICE void merge(const plan::Split& split) {
    if constexpr (kDecodeOnly) {
      merge_parts(p, memory.tile, split, memory.decode.m[0], memory.decode.targets);
    } else {
      merge_parts(p, memory.tile, split, memory.prefill.merge.references,
                  memory.prefill.merge.targets);
    }
  }
  TW_DEVICE plan::Split find_split(i64 item) const {
    i32 begin = 0;
    i32 end = schedule.header->num_splits;
    while (end - begin > 1) {
      const i32 middle = (begin + end) / 2;
      if (schedule.splits[middle].item <= item) {
        begin = middle;
      } else {
        end = middle;
      }
    }
    return schedule.splits[begin];
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

// By a warp: joins the levels' results of one (token, q head), outermost first.
TW_DEVICE void join_levels_of_row(const AttentionParams& p, i64 token, i32 head) {
  const u32 levels = p.plan.token_levels[token];
  if ((levels & (levels - 1)) == 0 && levels != 0) return;  // its one row has written the output
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
  const auto over_levels = [&](float& m, float& l, const auto& visit) {
    for (i32 level = 0; level < p.plan.num_levels; ++level) {
      if ((levels >> level & 1U) == 0) continue;
      const Partial part = level_row(p, level, token, head);
      visit(part, join(m, l, *part.m, *part.l));
    }
  };
  float all_m = -kInfinity;
  float all_l = 0;
  over_levels(all_m, all_l, [](const Partial&, const Join&) {});
  // All lanes write the same lse.
  const RowTarget target = finish_row(p, row, all_m, all_l);
  for (i32 d = lane_id() * 4; d < Spec::kValueDim; d += kWarpSize * 4) {
    float m = -kInfinity;
    float l = 0;
    Float4 o{0, 0, 0, 0};
    over_levels(m, l, [&](const Partial& part, const Join& by) {
      add(o, by.own, *reinterpret_cast<const Float4*>(part.o + d), by.other);
    });
    put_columns(p, row, target, d, o);
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
