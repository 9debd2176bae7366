// SPDX-License-Identifier: Apache-2.0
// Where keys lie, and how they come to shared memory.
#pragma once

#include "attention/tile.h"

namespace tw {

// Finding a key takes two steps, so that a kernel can ask for page ids long before it needs addresses:
// the id comes from memory, and waiting for it would cost a memory latency for every block of keys.
// Only the id is kept in between: registers are what the kernels are shortest of.

TW_DEVICE const KeySegment& segment_of_key(const Tile& tile, i32 key) {
  i32 s = 0;
  while (s + 1 < tile.num_segments && key >= tile.segments[s].key_end) ++s;
  return tile.segments[s];
}

TW_DEVICE i32 page_of_key(const Tile& tile, i32 key) {
  if (key >= tile.kv_len) return -1;
  const KeySegment& segment = segment_of_key(tile, key);
  const i32 column = segment.column_of(key - segment.key_begin);
  return segment.entries != nullptr ? load_once(segment.entries + column)
                                    : segment.first_page + column;
}

TW_DEVICE i32 position_of_key(const AttentionParams& p, const Tile& tile, i32 key) {
  const plan::Interleave& shard = p.plan.interleave;
  if (shard.world == 1) return tile.kv_pos + key;
  const i64 turn = key / shard.size;
  return static_cast<i32>((turn * shard.world + shard.rank) * shard.size + key - turn * shard.size);
}

// The position of a key that does not exist: nobody attends to it.
inline constexpr i32 kNoKey = -0x7FFFFFFF - 1;

// A key's and its value's address; null where there is no such key, or no such page in the cache.
struct KeyAddress {
  const char* key;
  const char* value;
  i32 position;
};
TW_DEVICE KeyAddress address_of_key(const AttentionParams& p, Tile& tile, i32 key, i32 page) {
  if (key >= tile.kv_len) return {nullptr, nullptr, kNoKey};
  const KeySegment& segment = segment_of_key(tile, key);
  const CacheView& cache = p.cache[segment.level];
  if (static_cast<u32>(page) >= static_cast<u32>(cache.pages)) {
    tile.lacks_pages = 1;
    return {nullptr, nullptr, kNoKey};
  }
  const i32 index = key - segment.key_begin;
  const i32 slot = index - segment.column_of(index) * segment.page_size;
  return {cache.k + page * cache.k_page + slot * cache.k_token + tile.kv_head * cache.k_head,
          cache.v + page * cache.v_page + slot * cache.v_token + tile.kv_head * cache.v_head,
          position_of_key(p, tile, key)};
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
  static constexpr i32 kLanes = units <= 2 ? 2 : units <= 4 ? 4 : units <= 8 ? 8 : units <= 16 ? 16 : 32;
  static constexpr i32 kAtOnce = threads / kLanes < keys ? threads / kLanes : keys;
  static constexpr i32 kPasses = keys / kAtOnce;
  static_assert(units <= 32 && kAtOnce * kPasses == keys);

  TW_DEVICE static i32 table_index(i32 key) { return key % kAtOnce * kPasses + key / kAtOnce; }

  // `dim` elements of 16 bits a row; what is behind them in the last unit becomes zeros. So do rows
  // whose address is null, if there are any: `complete` says that there are none. (To read zeros from
  // one place would be simpler, and make all of the GPU wait for one bank of the cache.)
  template <i32 pitch, i32 dim>
  TW_DEVICE static void copy(char* to, const char* const* table, bool complete, i32 thread) {
    const i32 unit = thread % kLanes;
    const i32 row = thread / kLanes;
    if (unit >= units || row >= kAtOnce) return;
    const bool pads = dim % 16 != 0 && unit * 8 >= dim;
    char* const place = to + row * pitch + unit * 16;
    // All addresses are read before the first copy: no read is moved across one.
    const char* from[kPasses];
#pragma unroll
    for (i32 pass = 0; pass < kPasses; ++pass) from[pass] = table[row * kPasses + pass];
    if (complete && !pads) {
#pragma unroll
      for (i32 pass = 0; pass < kPasses; ++pass) {
        copy_async_16(place + pass * kAtOnce * pitch, from[pass] + unit * 16);
      }
    } else {
#pragma unroll
      for (i32 pass = 0; pass < kPasses; ++pass) {
        const bool valid = from[pass] != nullptr && !pads;
        copy_async_16(place + pass * kAtOnce * pitch, from[pass] + (valid ? unit * 16 : 0), valid);
      }
    }
  }
};

}  // namespace tw
