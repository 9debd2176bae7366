// SPDX-License-Identifier: Apache-2.0
// Keys and values of new tokens into their slots of a cache. A block has a token. Values that alias
// keys win: they are written after a barrier.
#pragma once

#include "arch/arithmetic.h"
#include "arch/elements.h"
#include "arch/thread.h"
#include "ops/params.h"

namespace tw {

template <typename T>
inline constexpr bool kIsFp8 = kIsSame<T, f8e4m3> || kIsSame<T, f8e5m2>;

// Copies, where the types are the same, or converts.
template <typename From, typename To, i32 count>
TW_DEVICE void write_run(const From* from, To* to, float scale) {
  if constexpr (kIsSame<From, To>) {
    if constexpr (count == 1) {
      *to = *from;
    } else {
      u32 words[count * sizeof(From) / 4];
      load_words(from, words);
      store_words(to, words);
    }
  } else {
    float value[count];
    load_run(from, value);
    if constexpr (kIsFp8<To>) {
#pragma unroll
      for (i32 j = 0; j < count; ++j) value[j] = divide_exact(value[j], scale);
    }
    store_run(value, to);
  }
}

template <typename From, typename To, i32 count>
TW_DEVICE void write_token(const CacheSide& side, i32 heads, i64 token, i64 page, i64 row,
                           i64 request) {
  const From* from = static_cast<const From*>(side.from) + token * side.from_stride[0];
  To* to = static_cast<To*>(side.to) + page * side.to_stride[0] + row * side.to_stride[1];
  const i32 runs = side.dim / count;
  for (i32 item = thread_id(); item < heads * runs; item += num_threads()) {
    const i64 head = item / runs;
    const i64 i = item % runs * count;
    float scale = side.scale_value;
    if (side.scale != nullptr)
      scale = side.scale[request * side.scale_stride[0] + head * side.scale_stride[1]];
    write_run<From, To, count>(from + head * side.from_stride[1] + i * side.from_stride[2],
                               to + head * side.to_stride[2] + i, scale);
  }
}

template <typename From, typename To>
TW_DEVICE void write_side(const CacheSide& side, i32 heads, i64 token, i64 page, i64 row,
                          i64 request) {
  if (side.aligned != 0) {
    write_token<From, To, kRun>(side, heads, token, page, row, request);
  } else {
    write_token<From, To, 1>(side, heads, token, page, row, request);
  }
}

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

template <typename KeyFrom, typename KeyTo, typename ValueFrom, typename ValueTo>
TW_DEVICE void write_kv_cache(const CacheWriteParams& p) {
  const i64 token = block_id();
  const i64 slot = load_index(p.slots, p.slots_64 != 0, token * p.slots_stride);
  if (slot < 0 || slot >= p.slots_end) return;
  const i64 request = request_of(p, token);
  if (request < 0) return;
  const i64 page = slot / p.page_size;
  const i64 row = slot % p.page_size;
  write_side<KeyFrom, KeyTo>(p.keys, p.heads, token, page, row, request);
  sync_block();
  write_side<ValueFrom, ValueTo>(p.values, p.heads, token, page, row, request);
}

}  // namespace tw
