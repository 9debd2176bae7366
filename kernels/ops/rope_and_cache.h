// SPDX-License-Identifier: Apache-2.0
// From the projection of queries, keys and values to attention's inputs: RMSNorm of each head of
// queries and keys, rotation, and keys and values into their slots of a cache, with the roundings
// of the three operators. A block has up to kBlockTokens tokens; heads are counted through those of
// queries, then those of keys.
#pragma once

#include "ops/cache_write.h"
#include "ops/rope.h"

namespace tw {

// A run of a head of a block's token.
struct HeadRun {
  i32 token;  // of the block
  i32 head;
  i32 run;
};

// A thread's runs: thread, thread + threads, ... of all heads of a block's tokens. Only the first
// one takes a division.
TW_DEVICE i32 quotient(i32 a, i32 b) {
  return static_cast<i32>(static_cast<u32>(a) / static_cast<u32>(b));
}
TW_DEVICE HeadRun in_token(const HeadRuns& runs, HeadRun at) {
#pragma unroll 1
  for (; at.head >= runs.heads; at.head -= runs.heads) ++at.token;
  return at;
}
TW_DEVICE HeadRun first_run(const HeadRuns& runs) {
  const i32 head = quotient(thread_id(), runs.runs);
  return in_token(runs, {0, head, thread_id() - head * runs.runs});
}
TW_DEVICE HeadRun run_after(const HeadRuns& runs, HeadRun at) {
  at.head += runs.step_heads;
  at.run += runs.step_runs;
  if (at.run >= runs.runs) {
    at.run -= runs.runs;
    ++at.head;
  }
  return in_token(runs, at);
}

// index * stride; the index is not negative.
TW_DEVICE i64 offset_of(i32 index, i64 stride) {
  return static_cast<i64>(u64{static_cast<u32>(index)} * static_cast<u64>(stride));
}

// What a block knows of its tokens, in shared memory: where they go; of each run of pairs the
// cosines, then the sines; and where heads are normed, 1 / the root mean square of each.
template <i32 run>
struct BlockTokens {
  i32 first;
  i32 count;
  CacheSlot* slots;
  float* turns;
  float* factors;

  TW_DEVICE explicit BlockTokens(const RopeAndCacheParams& p)
      : first(block_id() * p.block_tokens),
        count(p.rope.tokens - first < p.block_tokens ? p.rope.tokens - first : p.block_tokens),
        slots(reinterpret_cast<CacheSlot*>(shared_memory())),
        turns(reinterpret_cast<float*>(slots + RopeAndCacheParams::kBlockTokens)),
        factors(turns + 2 * p.block_tokens * p.rope.pairs) {
    static_assert(RopeAndCacheParams::kBlockTokens * sizeof(CacheSlot) ==
                  RopeAndCacheParams::kSlotBytes);
    static_assert(RopeAndCacheParams::kSlotBytes % 16 == 0);
  }

  // The last threads, which have the least to do else, find a slot each.
  TW_DEVICE void find_slots(const CacheWriteParams& p) const {
    const i32 i = num_threads() - 1 - thread_id();
    if (i >= count) return;
    const i64 token = first + i;
    slots[i] = cache_slot(p, token, load_index(p.slots, p.slots_64 != 0, token * p.slots_stride));
  }

  template <typename Table>
  TW_DEVICE void find_cosines(const RopeParams& p) const {
#pragma unroll 1
    for (i32 at = thread_id(); at < count * p.pairs; at += num_threads()) {
      const i32 token = quotient(at, p.pairs);
      const CosSin value = cos_sin_of_pair<Table>(p, first + token, at - token * p.pairs);
      float* const to = turns + at / run * 2 * run + at % run;
      to[0] = value.cosine;
      to[run] = value.sine;
    }
  }
};

// Queries and keys, by their types. A thread's first pair of runs is read before slots, cosines and
// factors are known, and each other one before the one before it is rotated.
template <typename X, typename KeyTo, typename Weight, i32 count>
struct RotatedHeads {
  const RopeAndCacheParams& p;
  const BlockTokens<count>& tokens;
  HeadRun next;
  PairRuns<X, count> ahead;

  TW_DEVICE RotatedHeads(const RopeAndCacheParams& params, const BlockTokens<count>& of_block)
      : p(params), tokens(of_block), next(first_run(params.pairs)) {
    if (next.token < tokens.count) ahead = read_pairs(next);
  }

  TW_DEVICE bool is_query(i32 head) const { return head < p.rope.heads; }
  TW_DEVICE const X* head_data(i32 token, i32 head) const {
    const i32 row = tokens.first + token;
    if (is_query(head)) {
      return static_cast<const X*>(p.rope.x.data) + offset_of(row, p.rope.x.outer_stride) +
             offset_of(head, p.rope.x.inner_stride);
    }
    const CacheSide& keys = p.cache.keys;
    return static_cast<const X*>(keys.from) + offset_of(row, keys.from_stride[0]) +
           offset_of(head - p.rope.heads, keys.from_stride[1]);
  }
  TW_DEVICE PairPlaces places_of(i32 run) const {
    return pair_places<count>(run * count, p.rope.pairs, p.rope.interleaved != 0);
  }
  TW_DEVICE PairRuns<X, count> read_pairs(const HeadRun& at) const {
    const X* from = head_data(at.token, at.head);
    const PairPlaces places = places_of(at.run);
    return {read_run<count>(from + places.first), read_run<count>(from + places.second)};
  }

  // As many lanes as there are runs, up to a warp, have a head; the order of its sum is that of
  // rms_norm where runs are whole.
  TW_DEVICE void find_factors() const {
    const i32 dim = p.rope.head_dim;
    const i32 head_runs = dim / count;
    i32 lanes = 1;
    while (lanes < head_runs && lanes < kWarpSize) lanes *= 2;
    const i32 first = thread_id() / lanes;
    const i32 each = num_threads() / lanes;
    const i32 lane = thread_id() % lanes;
    const i32 all_heads = tokens.count * p.pairs.heads;
    // Lanes meet in shuffles: all of them go as often as there are heads for the first.
    for (i32 begin = 0; begin < all_heads; begin += each) {
      const i32 at = begin + first;
      float squares = 0;
      if (at < all_heads) {
        const i32 token = quotient(at, p.pairs.heads);
        const X* from = head_data(token, at - token * p.pairs.heads);
        for (i32 run = lane; run < head_runs; run += lanes) {
          float value[count];
          load_run(from + run * count, value);
#pragma unroll
          for (i32 j = 0; j < count; ++j) squares = multiply_add_exact(value[j], value[j], squares);
        }
      }
      for (i32 mask = lanes / 2; mask > 0; mask /= 2) squares += shuffle_xor(squares, mask);
      if (at < all_heads && lane == 0) {
        const float mean = divide_exact(squares, static_cast<float>(dim));
        tokens.factors[at] = divide_exact(1.0F, sqrt_exact(add_exact(mean, p.eps)));
      }
    }
  }

  // A run of a head from `element` on, normed where there are weights.
  TW_DEVICE void norm_run(float (&value)[count], const HeadRun& at, i32 element) const {
    const void* weights = is_query(at.head) ? p.q_weight : p.k_weight;
    if (weights == nullptr) return;
    const float factor = tokens.factors[at.token * p.pairs.heads + at.head];
    float weight[count];
    load_run(static_cast<const Weight*>(weights) + element, weight);
#pragma unroll
    for (i32 j = 0; j < count; ++j) {
      value[j] = rounded_to<X>(
          multiply_exact(multiply_exact(value[j], factor), add_exact(weight[j], p.weight_offset)));
    }
  }

  // body(store) where the head goes somewhere; store(value, element) stores a run of it.
  template <typename Body>
  TW_DEVICE void store_all(const HeadRun& at, const Body& body) const {
    if (is_query(at.head)) {
      X* const to = static_cast<X*>(p.rope.out.data) +
                    offset_of(tokens.first + at.token, p.rope.out.outer_stride) +
                    offset_of(at.head, p.rope.out.inner_stride);
      body([&](const float(&value)[count], i32 element) { store_run(value, to + element); });
      return;
    }
    const CacheSlot& slot = tokens.slots[at.token];
    if (!slot.present) return;
    const CacheSide& keys = p.cache.keys;
    const i32 head = at.head - p.rope.heads;
    KeyTo* const to = static_cast<KeyTo*>(keys.to) + slot.page * keys.to_stride[0] +
                      slot.row * keys.to_stride[1] + offset_of(head, keys.to_stride[2]);
    body([&](const float(&value)[count], i32 element) {
      convert_run(keys, head, slot.request, pack_run<X>(value), to + element);
    });
  }

  TW_DEVICE void write_all() {
#pragma unroll 1
    while (next.token < tokens.count) {
      const HeadRun at = next;
      const PairRuns<X, count> read = ahead;
      next = run_after(p.pairs, at);
      if (next.token < tokens.count) ahead = read_pairs(next);
      const PairPlaces places = places_of(at.run);
      const float* const turns = tokens.turns + (at.token * p.pairs.runs + at.run) * 2 * count;
      float first[count];
      float second[count];
      unpack_run(read.first, first);
      unpack_run(read.second, second);
      norm_run(first, at, places.first);
      norm_run(second, at, places.second);
      rotate_runs(first, second, turns, turns + count, p.rope.interleaved != 0);
      store_all(at, [&](const auto& store) {
        store(first, places.first);
        store(second, places.second);
      });
    }
    write_rest();
  }

  // Elements behind those that are rotated.
  TW_DEVICE void write_rest() const {
    if (p.rest.runs == 0) return;
#pragma unroll 1
    for (HeadRun at = first_run(p.rest); at.token < tokens.count; at = run_after(p.rest, at)) {
      const i32 element = 2 * p.rope.pairs + at.run * count;
      float value[count];
      load_run(head_data(at.token, at.head) + element, value);
      norm_run(value, at, element);
      store_all(at, [&](const auto& store) { store(value, element); });
    }
  }
};

// Values, by their types; a thread's first runs are read before it is known where they go: as many
// as it has registers for beside its pairs.
template <typename X, typename To, i32 count>
struct BlockValues {
  static constexpr i32 kAhead = sizeof(X) <= 2 ? 2 : 1;

  const CacheSide& side;
  const HeadRuns& runs;
  const BlockTokens<count>& tokens;
  Run<X, count> ahead[kAhead];

  TW_DEVICE BlockValues(const RopeAndCacheParams& p, const BlockTokens<count>& of_block)
      : side(p.cache.values), runs(p.values), tokens(of_block) {
    if (runs.heads == 0) return;
    HeadRun at = first_run(runs);
#pragma unroll
    for (i32 k = 0; k < kAhead; ++k) {
      if (at.token >= tokens.count) break;
      ahead[k] = read(at);
      at = run_after(runs, at);
    }
  }

  TW_DEVICE Run<X, count> read(const HeadRun& at) const {
    return read_run<count>(
        static_cast<const X*>(side.from) + offset_of(tokens.first + at.token, side.from_stride[0]) +
        offset_of(at.head, side.from_stride[1]) + offset_of(at.run * count, side.from_stride[2]));
  }
  TW_DEVICE void write(const HeadRun& at, const Run<X, count>& run) const {
    const CacheSlot& slot = tokens.slots[at.token];
    if (!slot.present) return;
    convert_run(side, at.head, slot.request, run,
                static_cast<To*>(side.to) + slot.page * side.to_stride[0] +
                    slot.row * side.to_stride[1] + offset_of(at.head, side.to_stride[2]) +
                    at.run * count);
  }
  TW_DEVICE void write_all() const {
    if (runs.heads == 0) return;
    HeadRun at = first_run(runs);
#pragma unroll
    for (i32 k = 0; k < kAhead; ++k) {
      if (at.token >= tokens.count) return;
      write(at, ahead[k]);
      at = run_after(runs, at);
    }
#pragma unroll 1
    for (; at.token < tokens.count; at = run_after(runs, at)) write(at, read(at));
  }
};

template <typename X, typename KeyTo, typename ValueTo, typename Weight, typename Table, i32 count>
TW_DEVICE void rotate_and_write_tokens(const RopeAndCacheParams& p) {
  const BlockTokens<count> tokens(p);
  RotatedHeads<X, KeyTo, Weight, count> heads(p, tokens);
  const BlockValues<X, ValueTo, count> values(p, tokens);
  tokens.find_slots(p.cache);
  if (p.q_weight != nullptr || p.k_weight != nullptr) heads.find_factors();
  if (p.rope.table != nullptr) {
    tokens.template find_cosines<Table>(p.rope);
  } else {
    tokens.template find_cosines<NoTable>(p.rope);
  }
  sync_block();
  heads.write_all();
  sync_block();  // values that alias keys win
  values.write_all();
}

template <typename X, typename KeyTo, typename ValueTo, typename Weight, typename Table>
TW_DEVICE void rope_and_cache(const RopeAndCacheParams& p) {
  if (p.aligned != 0) {
    rotate_and_write_tokens<X, KeyTo, ValueTo, Weight, Table, kRun>(p);
  } else {
    rotate_and_write_tokens<X, KeyTo, ValueTo, Weight, Table, 1>(p);
  }
}

}  // namespace tw
