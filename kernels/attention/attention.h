// SPDX-License-Identifier: Apache-2.0
// The kernels of one attention, for all GPUs: tilewright_attention runs a plan,
// tilewright_join_levels joins what several levels gave for one query.
#pragma once

#include "attention/decode.h"
#include "attention/levels.h"
#include "attention/pieces.h"
#include "attention/prefill.h"

namespace tw {

struct WorkerState : TilePiece {
  Piece next;
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
        finder(params, memory.share) {}

  // Shares of section B are the longest pieces of work, so they go first; then section A, from its
  // longest items on.
  TW_DEVICE void run() {
    if (is_finder()) {
      finder.begin();
      memory.next = finder.next_of_share();
    }
    // To find the next piece takes several latencies of memory, so it is done while others wait for
    // keys. But of the last items of section A none is taken before the block is about to be free:
    // one that held two would leave none for another.
    const auto at_begin = [&] {
      if (memory.piece.slot >= 0 && warp_id() == Shape::kWarps - 1) find_split(p, memory);
      if (is_finder()) memory.next = finder.next_early();
    };
    const auto at_end = [&] {
      if (is_finder() && memory.next.kind == Piece::none) memory.next = finder.take_a_item();
    };
    at_end();
    for (;;) {
      sync_block();
      if (memory.next.kind == Piece::none) break;
      if (thread_id() == 0) memory.piece = memory.next;
      set_up_tile<Shape::kThreads>(p, memory.next.item, memory.next.begin, memory.next.end,
                                   memory.tile, thread_id(), [] { sync_block(); });
      const i32 count = memory.tile.part_end - memory.tile.first_block;
      if (kDecodeOnly || is_decode(p, memory.tile)) {
        Decode decode(p, memory.tile, memory.decode);
        decode.run(count, at_begin, at_end);
        decode.store(memory.piece.slot);
      } else if constexpr (!kDecodeOnly) {
        Prefill prefill(p, memory.tile, memory.prefill);
        prefill.run(count, at_begin, at_end);
        prefill.store(memory.piece.slot);
      }
      if (memory.piece.slot >= 0) merge_if_last(p, memory, memory.merge);
    }
    if (p.zero_padding != 0) zero_padding(p);
  }

 private:
  // One thread of the last warp: the first ones have more to do.
  TW_DEVICE bool is_finder() const { return thread_id() == Shape::kThreads - 1; }

  const AttentionParams& p;
  Memory& memory;
  PieceFinder finder;
};

}  // namespace tw

TW_KERNEL TW_LAUNCH_BOUNDS(tw::Shape::kThreads, tw::Spec::kBlocksPerSm)
    tilewright_attention(TW_PARAMETER tw::AttentionParams params) {
  tw::wait_for_previous_kernel();
  tw::Worker<tw::Spec::kDecodeOnly>(params).run();
}
