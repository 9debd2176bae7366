// SPDX-License-Identifier: Apache-2.0
// Keys and values of new tokens into their slots of a cache. A block has a token. Values that alias
// keys win: they are written after a barrier.
#pragma once

#include "arch/arithmetic.h"
#include "arch/elements.h"
#include "arch/thread.h"
#include "ops/params.h"

namespace tw {

// A run of a head in its place: copied, where the types are the same, or converted.
template <typename From, typename To, i32 count>
TW_DEVICE void convert_run(const CacheSide& side, i32 head, i64 request,
                           const Run<From, count>& run, To* to) {
  if constexpr (kIsSame<From, To>) {
    write_run(run, to);
  } else {
    float value[count];
    unpack_run(run, value);
    if constexpr (kIsFp8<To>) {
      float scale = side.scale_value;
      if (side.scale != nullptr)
        scale = side.scale[request * side.scale_stride[0] + head * side.scale_stride[1]];
#pragma unroll
      for (i32 j = 0; j < count; ++j) value[j] = divide_exact(value[j], scale);
    }
    store_run(value, to);
  }
}

// Keys or values of a token, by their types. A thread takes runs thread, thread + threads, ...;
// its first ones are read before it is known where they go.
template <typename From, typename To, i32 count, i32 kAhead = 2>
struct TokenSide {
  const CacheSide& side;
  const From* from;
  i32 runs;  // of a head
  i32 items;
  Run<From, count> ahead[kAhead];
  i32 head_of_ahead[kAhead];

  TW_DEVICE TokenSide(const CacheSide& s, i32 heads, i64 token)
      : side(s),
        from(static_cast<const From*>(s.from) + token * s.from_stride[0]),
        runs(s.dim / count),
        items(heads * runs) {
#pragma unroll
    for (i32 k = 0; k < kAhead; ++k) {
      const i32 item = thread_id() + k * num_threads();
      if (item >= items) continue;
      head_of_ahead[k] = head_of(item);
      ahead[k] = read(item, head_of_ahead[k]);
    }
  }

  TW_DEVICE i32 head_of(i32 item) const {
    return static_cast<i32>(static_cast<u32>(item) / static_cast<u32>(runs));
  }
  TW_DEVICE Run<From, count> read(i32 item, i32 head) const {
    const i64 element = (item - head * runs) * count;
    return read_run<count>(from + head * side.from_stride[1] + element * side.from_stride[2]);
  }

  TW_DEVICE void write(i32 item, i32 head, const Run<From, count>& run, To* to, i64 request) const {
    to += head * side.to_stride[2] + (item - head * runs) * count;
    convert_run(side, head, request, run, to);
  }

  TW_DEVICE void write_all(i64 page, i64 row, i64 request) const {
    To* to = static_cast<To*>(side.to) + page * side.to_stride[0] + row * side.to_stride[1];
#pragma unroll
    for (i32 k = 0; k < kAhead; ++k) {
      const i32 item = thread_id() + k * num_threads();
      if (item < items) write(item, head_of_ahead[k], ahead[k], to, request);
    }
    for (i32 item = thread_id() + kAhead * num_threads(); item < items; item += num_threads()) {
      const i32 head = head_of(item);
      write(item, head, read(item, head), to, request);
    }
  }
};

// The request of a token, or -1 behind the last one's.
TW_DEVICE i64 request_of(const CacheWriteParams& p, i64 token) {
  if (p.token_indptr == nullptr) return 0;
  const auto begin_of = [&](i64 request) {
    return load_index(p.token_indptr, p.token_indptr_64 != 0, request * p.token_indptr_stride);
  };
  if (token >= begin_of(p.requests)) return -1;
  i64 low = 0;
  i64 high = p.requests - 1;
  while (low < high) {  // the last request that begins at the token or before
    const i64 middle = (low + high + 1) / 2;
    if (begin_of(middle) <= token) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return low;
}

// Where a token goes.
struct CacheSlot {
  bool present;
  u32 page;
  u32 row;
  i64 request;
};
TW_DEVICE CacheSlot cache_slot(const CacheWriteParams& p, i64 token, i64 slot) {
  if (slot < 0 || slot >= p.slots_end) return {false, 0, 0, 0};
  const i64 request = request_of(p, token);
  return {request >= 0, static_cast<u32>(slot) / static_cast<u32>(p.page_size),
          static_cast<u32>(slot) % static_cast<u32>(p.page_size), request};
}

template <i32 count, typename KeyFrom, typename KeyTo, typename ValueFrom, typename ValueTo>
TW_DEVICE void write_token(const CacheWriteParams& p) {
  const i64 token = block_id();
  const i64 number = load_index(p.slots, p.slots_64 != 0, token * p.slots_stride);
  const TokenSide<KeyFrom, KeyTo, count> keys(p.keys, p.heads, token);
  const TokenSide<ValueFrom, ValueTo, count> values(p.values, p.heads, token);
  const CacheSlot slot = cache_slot(p, token, number);
  if (!slot.present) return;
  keys.write_all(slot.page, slot.row, slot.request);
  sync_block();
  values.write_all(slot.page, slot.row, slot.request);
}

template <typename KeyFrom, typename KeyTo, typename ValueFrom, typename ValueTo>
TW_DEVICE void write_kv_cache(const CacheWriteParams& p) {
  if (p.keys.aligned != 0 && p.values.aligned != 0) {
    write_token<kRun, KeyFrom, KeyTo, ValueFrom, ValueTo>(p);
  } else {
    write_token<1, KeyFrom, KeyTo, ValueFrom, ValueTo>(p);
  }
}

}  // namespace tw
