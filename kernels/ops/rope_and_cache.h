// SPDX-License-Identifier: Apache-2.0
// From the projection of queries, keys and values to attention's inputs: RMSNorm of each head of
// queries and keys, rotation, and keys and values into their slots of a cache, with the roundings
// of the three operators. A block has a token; heads are counted through those of queries, then
// those of keys.
#pragma once

#include "ops/cache_write.h"
#include "ops/rope.h"

namespace tw {

template <typename X, typename KeyTo, typename Weight, i32 count>
struct RopeAndCache {
  static constexpr i32 kAhead = 1;

  const RopeAndCacheParams& p;
  i32 token;
  i32 runs;  // of pairs of a head
  i32 items;
  i64 q_row;
  i64 k_row;
  PairRuns<X, count> ahead[kAhead];
  i32 head_of_ahead[kAhead];

  TW_DEVICE RopeAndCache(const RopeAndCacheParams& params, i32 which)
      : p(params),
        token(which),
        runs(params.rope.pairs / count),
        items((params.rope.heads + params.cache.heads) * runs),
        q_row(which * params.rope.x.outer_stride),
        k_row(which * params.cache.keys.from_stride[0]) {
#pragma unroll
    for (i32 k = 0; k < kAhead; ++k) {
      const i32 item = thread_id() + k * num_threads();
      if (item >= items) continue;
      head_of_ahead[k] = quotient(item, runs);
      ahead[k] = read_pairs(item - head_of_ahead[k] * runs, head_of_ahead[k]);
    }
  }

  TW_DEVICE static i32 quotient(i32 a, i32 b) {
    return static_cast<i32>(static_cast<u32>(a) / static_cast<u32>(b));
  }
  TW_DEVICE bool is_query(i32 head) const {
    return head < p.rope.heads;
  }
  TW_DEVICE const X* head_data(i32 head) const {
    if (is_query(head)) {
      return static_cast<const X*>(p.rope.x.data) + q_row + head * p.rope.x.inner_stride;
    }
    return static_cast<const X*>(p.cache.keys.from) + k_row +
           (head - p.rope.heads) * p.cache.keys.from_stride[1];
  }
  TW_DEVICE PairPlaces places_of(i32 run) const {
    return pair_places<count>(run * count, p.rope.pairs, p.rope.interleaved != 0);
  }
  TW_DEVICE PairRuns<X, count> read_pairs(i32 run, i32 head) const {
    const X* from = head_data(head);
    const PairPlaces at = places_of(run);
    return {read_run<count>(from + at.first), read_run<count>(from + at.second)};
  }

  // 1 / the root mean square of each head, into shared memory. As many lanes as there are runs, up
  // to a warp, have a head; the order of its sum is that of rms_norm where runs are whole.
  TW_DEVICE void find_factors(float* factors) const {
    const i32 dim = p.rope.head_dim;
    const i32 head_runs = dim / count;
    i32 lanes = 1;
    while (lanes < head_runs && lanes < kWarpSize) lanes *= 2;
    const i32 heads = p.rope.heads + p.cache.heads;
    const i32 first = thread_id() / lanes;
    const i32 each = num_threads() / lanes;
    const i32 lane = thread_id() % lanes;
    // Lanes meet in shuffles: all of them go as often as there are heads for the first.
    for (i32 begin = 0; begin < heads; begin += each) {
      const i32 head = begin + first;
      float squares = 0;
      if (head < heads) {
        const X* from = head_data(head);
        for (i32 run = lane; run < head_runs; run += lanes) {
          float value[count];
          load_run(from + run * count, value);
#pragma unroll
          for (i32 j = 0; j < count; ++j) squares = multiply_add_exact(value[j], value[j], squares);
        }
      }
      for (i32 mask = lanes / 2; mask > 0; mask /= 2) squares += shuffle_xor(squares, mask);
      if (head < heads && lane == 0) {
        const float mean = divide_exact(squares, static_cast<float>(dim));
        factors[head] = divide_exact(1.0F, sqrt_exact(add_exact(mean, p.eps)));
      }
    }
  }

  // A run of a head from `element` on, normed where there are weights.
  TW_DEVICE void norm_run(float (&value)[count], i32 head, i32 element,
                          const float* factors) const {
    const void* weights = is_query(head) ? p.q_weight : p.k_weight;
    if (weights == nullptr) return;
    const float factor = factors[head];
    float weight[count];
    load_run(static_cast<const Weight*>(weights) + element, weight);
#pragma unroll
    for (i32 j = 0; j < count; ++j) {
      value[j] = rounded_to<X>(
          multiply_exact(multiply_exact(value[j], factor), add_exact(weight[j], p.weight_offset)));
    }
  }

  // Where a key goes.
  struct Target {
    bool present;
    KeyTo* row;
    i64 request;
  };

  TW_DEVICE void store(float (&value)[count], i32 head, i32 element, const Target& target) const {
    if (is_query(head)) {
      X* to = static_cast<X*>(p.rope.out.data) + token * p.rope.out.outer_stride;
      store_run(value, to + head * p.rope.out.inner_stride + element);
      return;
    }
    if (!target.present) return;
    head -= p.rope.heads;
    convert_run(p.cache.keys, head, target.request, pack_run<X>(value),
                target.row + head * p.cache.keys.to_stride[2] + element);
  }

  TW_DEVICE void rotate_item(i32 run, i32 head, const PairRuns<X, count>& read,
                             const float* cosines, const float* sines, const float* factors,
                             const Target& target) const {
    const PairPlaces at = places_of(run);
    const i32 pair = run * count;
    float first[count];
    float second[count];
    unpack_run(read.first, first);
    unpack_run(read.second, second);
    norm_run(first, head, at.first, factors);
    norm_run(second, head, at.second, factors);
    rotate_runs(first, second, cosines + pair, sines + pair, p.rope.interleaved != 0);
    store(first, head, at.first, target);
    store(second, head, at.second, target);
  }

  TW_DEVICE void write_all(const float* cosines, const float* sines, const float* factors,
                           const Target& target) const {
#pragma unroll
    for (i32 k = 0; k < kAhead; ++k) {
      const i32 item = thread_id() + k * num_threads();
      if (item >= items) continue;
      const i32 head = head_of_ahead[k];
      rotate_item(item - head * runs, head, ahead[k], cosines, sines, factors, target);
    }
    for (i32 item = thread_id() + kAhead * num_threads(); item < items; item += num_threads()) {
      const i32 head = quotient(item, runs);
      const i32 run = item - head * runs;
      rotate_item(run, head, read_pairs(run, head), cosines, sines, factors, target);
    }
    write_rest(factors, target);
  }

  // Elements behind those that are rotated.
  TW_DEVICE void write_rest(const float* factors, const Target& target) const {
    const i32 rest_runs = (p.rope.head_dim - 2 * p.rope.pairs) / count;
    const i32 rest_items = (p.rope.heads + p.cache.heads) * rest_runs;
    for (i32 item = thread_id(); item < rest_items; item += num_threads()) {
      const i32 head = quotient(item, rest_runs);
      const i32 element = 2 * p.rope.pairs + (item - head * rest_runs) * count;
      float value[count];
      load_run(head_data(head) + element, value);
      norm_run(value, head, element, factors);
      store(value, head, element, target);
    }
  }
};

template <typename X, typename KeyTo, typename ValueTo, typename Weight, typename Table, i32 count>
TW_DEVICE void rotate_and_write_token(const RopeAndCacheParams& p) {
  const i32 token = block_id();
  const i64 number = load_index(p.cache.slots, p.cache.slots_64 != 0, token * p.cache.slots_stride);
  const RopeAndCache<X, KeyTo, Weight, count> heads(p, token);
  const TokenSide<X, ValueTo, count, 1> values(p.cache.values, p.cache.heads, token);
  float* cosines = reinterpret_cast<float*>(shared_memory());
  float* sines = cosines + RopeParams::kMaxPairs;
  float* factors = sines + RopeParams::kMaxPairs;
  if (p.q_weight != nullptr || p.k_weight != nullptr) heads.find_factors(factors);
  if (p.rope.table != nullptr) {
    find_cosines<Table>(p.rope, token, cosines, sines);
  } else {
    find_cosines<NoTable>(p.rope, token, cosines, sines);
  }
  const CacheSlot slot = cache_slot(p.cache, token, number);
  const CacheSide& keys = p.cache.keys;
  KeyTo* row = static_cast<KeyTo*>(keys.to);
  if (slot.present) row += slot.page * keys.to_stride[0] + slot.row * keys.to_stride[1];
  heads.write_all(cosines, sines, factors, {slot.present, row, slot.request});
  sync_block();  // values that alias keys win
  if (slot.present) values.write_all(slot.page, slot.row, slot.request);
}

template <typename X, typename KeyTo, typename ValueTo, typename Weight, typename Table>
TW_DEVICE void rope_and_cache(const RopeAndCacheParams& p) {
  if (p.aligned != 0) {
    rotate_and_write_token<X, KeyTo, ValueTo, Weight, Table, kRun>(p);
  } else {
    rotate_and_write_token<X, KeyTo, ValueTo, Weight, Table, 1>(p);
  }
}

}  // namespace tw
