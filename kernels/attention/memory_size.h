// SPDX-License-Identifier: Apache-2.0
// What the host must know of an attention kernel before it is compiled: its rows, its warps and how
// much shared memory it takes. The kernel checks that its own count (sizeof) is not more.
#pragma once

namespace tw {

constexpr int kTileRows = 128;   // packed rows of a tile, plan::Config::tile_rows
constexpr int kDecodeRows = 16;  // tiles of no more rows take the decode path
constexpr int kDecodeKeys = 16;  // that a warp takes at a time
constexpr int kDecodeWarps = 4;  // the others only help to store

// How a kernel tells which blocks of keys a tile needs: one span of them (masks that one interval
// describes), several, or those that a BlockStructure lists.
enum class BlockForm : int { span, spans, listed };

constexpr int attention_warps(int head_dim, int value_dim) {
  return head_dim > 128 || value_dim > 128 ? 8 : 4;
}

// Keys whose addresses prefill finds at a time: one a thread, of a few blocks.
constexpr int prefill_round_keys(int threads, int block) {
  return threads < 4 * block ? threads : 4 * block;
}

// See shape.h, prefill.h, decode.h, rotate.h and tile.h for what is counted. `rope_dim`: rotated
// elements of a row.
constexpr int attention_shared_bytes(int head_dim, int value_dim, int block, int decode_stages,
                                     int rope_dim, BlockForm form, bool decode_only) {
  const int head_pitch = (2 * ((head_dim + 15) / 16) + 1) * 16;
  const int value_pitch = (2 * ((value_dim + 15) / 16) + 1) * 16;
  const auto larger = [](int a, int b) { return a > b ? a : b; };
  const int targets = 24;  // RowTarget
  const int rest_pitch = rope_dim > 0 ? (2 * ((rope_dim + 15) / 16) + 1) * 16 : 0;
  const int prefill =
      kTileRows * head_pitch + 2 * block * (head_pitch + value_pitch) +
      2 * prefill_round_keys(32 * attention_warps(head_dim, value_dim), block) * (2 * 8 + 4) +
      (kTileRows + block) * rest_pitch;
  const int ring = decode_stages * kDecodeKeys * (head_pitch + value_pitch);
  const int decode = 3 * kDecodeWarps * kDecodeRows * 4 + kDecodeRows * targets +
                     kDecodeWarps * (2 * kDecodeKeys * 16 + 4 * kDecodeKeys * 4) +
                     larger(kDecodeWarps * ring, kDecodeWarps * kDecodeRows * 4 * value_dim) +
                     (kDecodeWarps * kDecodeKeys + kDecodeRows) * rest_pitch;
  const int tile = (decode_only ? kDecodeRows : kTileRows) * (16 + 4) + 8 * 32 +
                   (form == BlockForm::span ? 16 : 1024) + 64;
  const int pieces = 2 * 48 + 24 + 72;
  return (decode_only ? decode : larger(prefill, decode)) + tile + pieces + 64;
}

}  // namespace tw
