// SPDX-License-Identifier: Apache-2.0
// Bytes that are 0 or not into bits, eight to a byte. A thread has a byte of the output.
#pragma once

#include "arch/elements.h"
#include "arch/memory.h"
#include "arch/thread.h"
#include "ops/params.h"

namespace tw {

// Of `count` bytes, at most eight. Where they begin at a multiple of eight they are loaded at once.
TW_DEVICE u8 packed_byte(const u8* from, i64 count, bool little) {
  const u32 flip = little ? 0 : 7;
  u32 bits = 0;
  if (count >= 8 && reinterpret_cast<u64>(from) % 8 == 0) {
    const Bytes8 bytes = *reinterpret_cast<const Bytes8*>(from);
#pragma unroll
    for (i32 i = 0; i < 8; ++i) {
      if ((bytes.word[i / 4] >> (i % 4 * 8) & 0xFFU) != 0)
        bits |= 1U << (static_cast<u32>(i) ^ flip);
    }
  } else {
#pragma unroll
    for (i32 i = 0; i < 8; ++i) {
      if (i < count && from[i] != 0) bits |= 1U << (static_cast<u32>(i) ^ flip);
    }
  }
  return static_cast<u8>(bits);
}

TW_DEVICE void pack_bits(const PackBitsParams& p) {
  const u32 item = static_cast<u32>(block_id()) * static_cast<u32>(num_threads()) +
                   static_cast<u32>(thread_id());
  const u32 row = item / static_cast<u32>(p.row_bytes);
  if (row >= static_cast<u32>(p.rows)) return;
  const u32 byte = item - row * static_cast<u32>(p.row_bytes);
  const i64 first = static_cast<i64>(byte) * 8;
  p.out[row * p.out_stride + byte] =
      packed_byte(p.x + row * p.x_stride + first, p.columns - first, p.little != 0);
}

// The elements of a segment; within the tensor, whatever its bounds say.
struct Segment {
  i64 begin;
  i64 end;

  TW_DEVICE i64 bytes() const { return (end - begin + 7) / 8; }
};
TW_DEVICE Segment segment_of(const SegmentPackBitsParams& p, i64 segment) {
  const auto bound = [&](i64 at, i64 least) {
    const i64 value = load_index(p.indptr, p.indptr_64 != 0, at * p.indptr_stride);
    return value < least ? least : value > p.elements ? p.elements : value;
  };
  const i64 begin = bound(segment, 0);
  return {begin, bound(segment + 1, begin)};
}

TW_DEVICE void store_index(void* data, bool is_64, i64 at, i64 value) {
  if (is_64) {
    static_cast<i64*>(data)[at] = value;
  } else {
    static_cast<i32*>(data)[at] = static_cast<i32>(value);
  }
}

// `parts` blocks have a segment. Each adds up the bytes of the segments before its own.
TW_DEVICE void segment_pack_bits(const SegmentPackBitsParams& p) {
  const i64 segment = block_id() / p.parts;
  const i32 part = block_id() % p.parts;
  i64 before = 0;
  for (i64 i = thread_id(); i < segment; i += num_threads()) before += segment_of(p, i).bytes();
#pragma unroll
  for (i32 mask = kWarpSize / 2; mask > 0; mask /= 2) before += shuffle_xor(before, mask);
  i64* of_warps = reinterpret_cast<i64*>(shared_memory());
  if (lane_id() == 0) of_warps[warp_of_thread()] = before;
  sync_block();
  before = 0;
  for (i32 warp = 0; warp < num_threads() / kWarpSize; ++warp) before += of_warps[warp];
  const bool first = part == 0 && thread_id() == 0;
  if (first) store_index(p.out_indptr, p.out_indptr_64 != 0, segment * p.out_indptr_stride, before);
  if (segment >= p.segments) return;  // there are none
  const Segment mine = segment_of(p, segment);
  if (first && segment == p.segments - 1) {
    store_index(p.out_indptr, p.out_indptr_64 != 0, p.segments * p.out_indptr_stride,
                before + mine.bytes());
  }
  for (i64 i = static_cast<i64>(part) * num_threads() + thread_id(); i < mine.bytes();
       i += static_cast<i64>(p.parts) * num_threads()) {
    const i64 begin = mine.begin + i * 8;
    if (before + i < p.out_bytes)
      p.out[before + i] = packed_byte(p.x + begin, mine.end - begin, p.little != 0);
  }
}

}  // namespace tw
