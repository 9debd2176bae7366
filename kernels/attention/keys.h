// SPDX-License-Identifier: Apache-2.0
// Where keys lie, and how they come to shared memory.
#pragma once

#include "attention/row_layout.h"
#include "attention/tile.h"

namespace tw {

// Finding a key takes two steps, so that a kernel can ask for page ids long before it needs
// addresses: the id comes from memory, and waiting for it would cost a memory latency for every
// block of keys. Only the id is kept in between: registers are what the kernels are shortest of.

TW_DEVICE const KeySegment& segment_of_key(const Tile& tile, i32 key) {
  i32 s = 0;
  while (s + 1 < tile.num_segments && key >= tile.segments[s].key_end) ++s;
  return tile.segments[s];
}

TW_DEVICE i32 last_key(const Tile& tile, i32 key) {
  return key < tile.kv_len ? key : tile.kv_len - 1;
}

TW_DEVICE i32 page_of_key(const Tile& tile, i32 key) {
  if (tile.plain) {  // no search, no division
    return load_once(tile.segments[0].entries +
                     (last_key(tile, key) >> tile.segments[0].page_shift));
  }
  const KeySegment& segment = segment_of_key(tile, last_key(tile, key));
  const i32 column = segment.column_of(last_key(tile, key) - segment.key_begin);
  return segment.entries != nullptr ? load_once(segment.entries + column)
                                    : segment.first_page + column;
}

TW_DEVICE i32 position_of_key(const AttentionParams& p, const Tile& tile, i32 key) {
  const plan::Interleave& shard = p.plan.interleave;
  if (shard.world == 1) return tile.kv_pos + key;
  const i64 turn = shard.by_size.quotient(static_cast<u32>(key));
  return static_cast<i32>((turn * shard.world + shard.rank) * shard.size + key - turn * shard.size);
}

// The position of a key that does not exist: nobody attends to it.
inline constexpr i32 kNoKey = -0x7FFFFFFF - 1;

// A key's and its value's address, and its position. Keys that do not exist stand where the row's
// last one does: what is read there counts for nothing, and needs no branch. (To read zeros from
// one place instead would make all of the GPU wait for one bank of the cache.) A page that the
// cache does not have is not followed.
struct KeyAddress {
  const char* key;
  const char* value;
  i32 position;
};
TW_DEVICE KeyAddress address_in_page(const AttentionParams& p, const Tile& tile, i32 level,
                                     i32 page, i32 slot, i32 position) {
  const CacheView& cache = p.cache[level];
  const bool follows = static_cast<u32>(page) < static_cast<u32>(cache.pages);
  const i64 at = follows ? page : 0;
  return {cache.k + at * cache.k_page + slot * cache.k_token + tile.kv_head * cache.k_head,
          cache.v + at * cache.v_page + slot * cache.v_token + tile.kv_head * cache.v_head,
          follows ? position : kNoKey};
}
TW_DEVICE KeyAddress address_of_key(const AttentionParams& p, const Tile& tile, i32 key, i32 page) {
  if (tile.plain) {
    const i32 slot = last_key(tile, key) & ((1 << tile.segments[0].page_shift) - 1);
    return address_in_page(p, tile, tile.segments[0].level, page, slot,
                           key < tile.kv_len ? tile.kv_pos + key : kNoKey);
  }
  const KeySegment& segment = segment_of_key(tile, last_key(tile, key));
  const i32 index = last_key(tile, key) - segment.key_begin;
  const i32 slot = index - segment.column_of(index) * segment.page_size;
  return address_in_page(p, tile, segment.level, page, slot,
                         key < tile.kv_len ? position_of_key(p, tile, key) : kNoKey);
}

// Both steps at once, for who asks seldom: one way for all keys, which is short and not fast.
TW_DEVICE KeyAddress find_key(const AttentionParams& p, const Tile& tile, i32 key) {
  const i32 there = last_key(tile, key);
  const KeySegment& segment = segment_of_key(tile, there);
  const i32 index = there - segment.key_begin;
  const i32 column = segment.column_of(index);
  const i32 page = segment.entries != nullptr ? load_once(segment.entries + column)
                                              : segment.first_page + column;
  return address_in_page(p, tile, segment.level, page, index - column * segment.page_size,
                         key < tile.kv_len ? position_of_key(p, tile, key) : kNoKey);
}

TW_DEVICE bool attends(const AttentionParams& p, const QueryRow& row, i32 position) {
  if constexpr (Variant::kHasMask) {
    return position != kNoKey && Variant::mask(row, position, p.params);
  } else {
    return position != kNoKey;
  }
}

// How `threads` threads copy `keys` rows of `units` times 16 bytes: neighbouring threads copy
// neighbouring units. A thread's rows lie together in a table of their addresses.
template <i32 units, i32 keys, i32 threads>
struct RowCopy {
  static constexpr i32 kLanes = power_of_two_from(units > 1 ? units : 2);
  static constexpr i32 kAtOnce = threads / kLanes < keys ? threads / kLanes : keys;
  static constexpr i32 kPasses = keys / kAtOnce;
  static_assert(units <= 32 && kAtOnce * kPasses == keys);

  TW_DEVICE static i32 table_index(i32 key) { return key % kAtOnce * kPasses + key / kAtOnce; }

  // Into rows from `to` on, of a layout of row_layout.h. `dim` elements of 16 bits a row; what is
  // behind them in the last unit becomes zeros. `policy`: none, or a CachePolicy, which whole rows
  // are copied with.
  template <typename Rows, i32 dim, typename... Policy>
  TW_DEVICE static void copy(char* to, const char* const* table, i32 thread, Policy... policy) {
    const i32 unit = thread % kLanes;
    const i32 row = thread / kLanes;
    if (unit >= units || row >= kAtOnce) return;
    const SharedPlace place = shared_place(to + Rows::offset(row, unit));
    // All addresses are read before the first copy: no read is moved across one.
    const char* from[kPasses];
#pragma unroll
    for (i32 pass = 0; pass < kPasses; ++pass) from[pass] = table[row * kPasses + pass];
#pragma unroll
    for (i32 pass = 0; pass < kPasses; ++pass) {
      const SharedPlace below = Rows::below(place, pass * kAtOnce);
      if constexpr (dim % 16 == 0) {
        copy_async_16(below, from[pass] + unit * 16, policy...);
      } else {
        const bool valid = unit * 8 < dim;
        copy_async_16(below, from[pass] + (valid ? unit * 16 : 0), valid);
      }
    }
  }
};

}  // namespace tw
