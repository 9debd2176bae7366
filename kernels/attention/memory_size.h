// SPDX-License-Identifier: Apache-2.0
// What the host must know of an attention kernel before it is compiled: its rows, its warps and how
// much shared memory it takes. The kernel checks that its own count (sizeof) is not more.
#pragma once

namespace tw {

constexpr int round_up(int value, int to) {
  return (value + to - 1) / to * to;
}

// The smallest one that is not less.
constexpr int power_of_two_from(int value) {
  int power = 1;
  while (power < value) power *= 2;
  return power;
}

constexpr int kTileRows = 128;   // packed rows of a tile, plan::Config::tile_rows
constexpr int kDecodeRows = 16;  // tiles of no more rows take the decode path
constexpr int kDecodeWarps = 4;  // the others set up pieces and help to store

// Keys that a warp takes at a time. Small ones are not waited for, but their products are:
// instructions of more keys have less to wait for each other.
constexpr int decode_keys(int head_dim, int value_dim, int rope_dim, bool narrow) {
  const bool small = head_dim + value_dim <= 128 && rope_dim == 0;
  return narrow || small ? 32 : 16;
}

// Of a worker's slot for partial results of a tile.
constexpr int slot_rows(bool decode_only) {
  return decode_only ? kDecodeRows : kTileRows;
}

// Floats from one row of a level's results to the next: outputs, a maximum, a sum, and no row
// begins within 16 bytes.
constexpr int level_row_floats(int value_dim) {
  return round_up(value_dim + 2, 4);
}

constexpr int kHopperWarps = 8;  // that compute: two warp groups

// Warps that load keys, each its part of every block, and as many that load values. One can not
// keep up with the products where rows are copied one by one, nor with decoding; but more take a
// fourth warp group, and with it the compiler has but 128 registers for an instruction: too few for
// large heads.
constexpr int hopper_loaders(int head_dim, int value_dim) {
  return head_dim <= 128 && value_dim <= 128 ? 2 : 1;
}
constexpr int hopper_threads(int head_dim, int value_dim) {
  return 128 * (hopper_loaders(head_dim, value_dim) > 1 ? 4 : 3);
}
constexpr int kHopperTableRows = 64;  // that a warp copies one by one at a time

// Pieces that Hopper's kernel knows at a time: those ahead of the one that is computed take time to
// find, more than short tiles do. Stages of large heads leave room for two.
constexpr int hopper_pieces(int head_dim, int value_dim) {
  return head_dim <= 128 && value_dim <= 128 ? 4 : 2;
}

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

// Where the queries of few rows are: on their way to registers in a place of the first warp's ring,
// or in one of their own, so that all of the rings are for keys when a kernel begins; or they stay
// there, and are read for each chunk of keys.
enum class DecodeQueries { through_ring, through_own_place, in_own_place };
// `narrow`: the cache is fp8.
constexpr DecodeQueries decode_queries(bool decode_only, int head_dim, bool narrow) {
  // Those of large heads do not fit a warp's registers beside its outputs.
  if (head_dim > 128) return DecodeQueries::in_own_place;
  // Beside prefill, and where an fp8 cache leaves room for three blocks of threads an SM, memory is
  // short.
  return decode_only && !narrow ? DecodeQueries::through_own_place : DecodeQueries::through_ring;
}

// See shape.h, prefill.h, decode.h, rotate.h and tile.h for what is counted. `rope_dim`: rotated
// elements of a row.
constexpr int attention_shared_bytes(int head_dim, int value_dim, int block, int decode_stages,
                                     int rope_dim, BlockForm form, bool decode_only, bool narrow) {
  const auto row_bytes = [](int dim) { return 2 * round_up(dim, 16); };
  constexpr int kSpace = 16;  // behind a row of prefill's, and of rests
  const int head_pitch = row_bytes(head_dim) + kSpace;
  const int value_pitch = row_bytes(value_dim) + kSpace;
  const auto larger = [](int a, int b) { return a > b ? a : b; };
  const int a_tile = 8 * 32 + (form == BlockForm::span ? 16 : 1024) + 64;
  const int a_row = 16 + 4;
  const int rest_pitch = rope_dim > 0 ? row_bytes(rope_dim) + kSpace : 0;
  const int prefill =
      a_tile + kTileRows * a_row + kTileRows * head_pitch + 2 * block * (head_pitch + value_pitch) +
      2 * prefill_round_keys(32 * attention_warps(head_dim, value_dim), block) * (2 * 8 + 4) +
      (kTileRows + block) * rest_pitch;
  const auto cached_bytes = [&](int dim) { return narrow ? round_up(dim, 32) : row_bytes(dim); };
  const int keys = decode_keys(head_dim, value_dim, rope_dim, narrow);
  const int stage = larger(keys * (cached_bytes(head_dim) + cached_bytes(value_dim)),
                           kDecodeRows * (value_dim + 8) * 4);
  const int decode = 3 * (a_tile + kDecodeRows * a_row) + 2 * kDecodeWarps * kDecodeRows * 4 +
                     kDecodeWarps * keys * (16 + decode_stages * 4) +
                     kDecodeWarps * decode_stages * round_up(stage, 128) +
                     (kDecodeWarps * keys + kDecodeRows) * rest_pitch +
                     (decode_queries(decode_only, head_dim, narrow) == DecodeQueries::through_ring
                          ? 0
                          : kDecodeRows * row_bytes(head_dim));
  const int pieces = 3 * 128 + 96;
  const int bytes = (decode_only ? decode : larger(prefill, decode)) + pieces + 64 + 128;
  return round_up(bytes, 1024);
}

// Rows that a warp of the kernel for f32 queries has at a time.
constexpr int kScalarRows = 4;
// What attention_shared_bytes counts, of that kernel (scalar.h).
constexpr int scalar_shared_bytes(int head_dim, int value_dim, BlockForm form) {
  const int a_tile = 8 * 32 + (form == BlockForm::span ? 16 : 1024) + 64;
  const int parts = attention_warps(head_dim, value_dim) * kScalarRows * (value_dim + 2) * 4;
  const int pieces = 2 * 128 + 96;
  return round_up(a_tile + kTileRows * (16 + 4) + parts + pieces + 64 + 128, 1024);
}

// Of a row in a stage of Hopper's kernel: blocks of 64 elements, no space between rows.
constexpr int hopper_row_bytes(int dim) {
  return 2 * round_up(dim, 64);
}
constexpr int kHopperKeyStages = 2;
// Stages of values: three where there is room for them.
constexpr int hopper_value_stages(int head_dim, int value_dim, int block) {
  const int keys = (kTileRows + kHopperKeyStages * block) * hopper_row_bytes(head_dim);
  return keys + 3 * block * hopper_row_bytes(value_dim) <= 192 * 1024 ? 3 : 2;
}
// What attention_shared_bytes counts, of Hopper's kernel (hopper_memory.h), but for what follows.
constexpr int hopper_bytes_to_compute(int head_dim, int value_dim, int block) {
  const int stages =
      kTileRows * hopper_row_bytes(head_dim) +
      block * (kHopperKeyStages * hopper_row_bytes(head_dim) +
               hopper_value_stages(head_dim, value_dim, block) * hopper_row_bytes(value_dim));
  const int piece = 128 + kTileRows * (16 + 4 + 8 + 8) + 8 * 32 + 16 + 64;
  const int pieces = hopper_pieces(head_dim, value_dim) * piece + 96;
  const int loaders = hopper_loaders(head_dim, value_dim);
  const int addresses = (kTileRows + 2 * loaders * kHopperTableRows) * 8;
  const int bytes = stages + pieces + 4 * block * 4 + addresses + 512;
  return round_up(bytes, 1024);
}
// A warp's, for eight rows of 64 outputs on their way to memory; none where there is no room.
constexpr int hopper_store_bytes(int head_dim, int value_dim, int block) {
  const int free = 227 * 1024 - hopper_bytes_to_compute(head_dim, value_dim, block);
  return free >= kHopperWarps * 1024 ? 1024 : 0;
}
constexpr int hopper_shared_bytes(int head_dim, int value_dim, int block) {
  return hopper_bytes_to_compute(head_dim, value_dim, block) +
         kHopperWarps * hopper_store_bytes(head_dim, value_dim, block);
}
// Where few rows' results are joined there are 24 units of 512 bytes for each 64 elements of a
// query; eight columns of a value take one, the sums of weights another.
constexpr bool hopper_joins(int head_dim, int value_dim) {
  return value_dim / 8 < (head_dim + 63) / 64 * 24;
}

}  // namespace tw
