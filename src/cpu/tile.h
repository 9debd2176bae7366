// SPDX-License-Identifier: Apache-2.0
// One tile's working set: the rows it computes, its scratch memory, and what the SIMD kernels do
// with them.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu/attention.h"
#include "cpu/tile_bf16.h"
#include "cpu/tile_ranges.h"

namespace tilewright::cpu {

inline constexpr int kTileRows = 256;
inline constexpr int kBlockTokens = 64;
// Up to this many rows a tile may be narrow: computed with SIMD lanes along the head dimension.
// Up to the lower number it is, on every CPU, unless the plan is batch-invariant.
inline constexpr int kMaxNarrowRows = 16;
inline constexpr int kAlwaysNarrowRows = 8;

// Rows of scratch memory along a head dimension are padded with zeros to whole vectors.
constexpr int padded_dim(int dim) {
  return (dim + 15) / 16 * 16;
}

// A scale's factor for one request and KV head.
float scale_of(const Scale& scale, std::int64_t request, std::int64_t head);

// One packed row: a query token and a head.
struct TileRow {
  RowContext context;
  std::int64_t token = 0;
  bool exact_keys = false;
  IntervalSet keys;  // indices of the keys it attends to, where exact_keys
};

// Queries, keys and values are exact in bf16, which rotated ones would not be: Bf16Kernels compute
// it where there are some.
bool fits_bf16(const AttentionSpec& spec);

// Blocks that Bf16Kernels read stay packed between the tiles of one row and KV head, as many as
// leave room in a usual L2, each at the place that its number gives it: all of a tile that needs no
// more (neighbouring tiles of a window share most of theirs), else the row's first ones, which most
// tiles need. They lie behind kBf16Blocks others.
inline constexpr int kMaxKeptBlocks = 64;
struct PackedKeys {
  const plan::Row* row = nullptr;
  std::int32_t head = 0;
  std::int32_t number[kMaxKeptBlocks] = {};  // by place: 1 + the block that lies there, or 0
};

constexpr int kept_blocks(int head_dim, int value_dim) {
  const int block_bytes = 2 * kBlockTokens * (tile_dim(head_dim) + tile_dim(value_dim));
  const int blocks = (1 << 20) / block_bytes;
  return blocks > kMaxKeptBlocks ? kMaxKeptBlocks : blocks;
}

// Scratch of one thread. "Wide" tiles keep rows in the lanes: q [dim][kSubTileRows] and o
// [dim][kSubTileRows] for each sub-tile, s [key][kSubTileRows]; narrow ones keep them outermost: q
// [row][dim], s [row][kBlockTokens], o [row][dim]. Tiles of bf16 are wide; their operands are those
// of Bf16Kernels.
struct TileScratch {
  float* q = nullptr;
  float* k = nullptr;  // [kBlockTokens][head_dim], for keys that are not f32 already
  float* v = nullptr;  // [kBlockTokens][value_dim]
  float* s = nullptr;
  float* o = nullptr;
  float* result = nullptr;             // [kTileRows][value_dim] of wide tiles
  std::uint32_t* p = nullptr;          // bf16: [block][key pair][kSubTileRows] weights
  PackedKeys* packed = nullptr;        // bf16: what the next two hold
  std::uint16_t* k_packed = nullptr;   // bf16: [block][kBlockTokens][head_dim]
  std::uint16_t* v_columns = nullptr;  // bf16: [block][value_dim][kBlockTokens]
  float* cosines = nullptr;            // of one position, by pair, for rope
  float* sines = nullptr;
  float* base2_scale = nullptr;        // bf16: [kTileRows] what makes exponents of 2 of scores
  float* m = nullptr;                  // [kTileRows] running maximum
  float* l = nullptr;                  // [kTileRows] running sum
  float* logit_scale = nullptr;        // [kTileRows] sm_scale and the scales of q and k
  float* lines = nullptr;              // [kSubTileRows][kBlockTokens] scores, by row
  float* zeros = nullptr;              // [value_dim]
  const std::byte** k_rows = nullptr;  // [kBlockTokens] where keys lie; f32 once they are loaded
  const std::byte** v_rows = nullptr;
  const std::byte** next_k_rows = nullptr;  // the same of the next block, for prefetching
  const std::byte** next_v_rows = nullptr;
  std::int32_t* key_begin = nullptr;  // [kTileRows] allowed keys of a row in this block
  std::int32_t* key_end = nullptr;
  std::int32_t* kv_pos = nullptr;   // [kBlockTokens], by block of those loaded together
  std::uint8_t* allowed = nullptr;  // [kBlockTokens]
  bool* has_sums = nullptr;         // bf16: [sub-tile] whether o was written yet
  TileRow* rows = nullptr;          // [kTileRows]
  void* program = nullptr;          // scratch of expression programs

  static std::size_t bytes(const AttentionSpec& spec, std::size_t program_bytes);
  static TileScratch carve(std::byte* memory, const AttentionSpec& spec);
  // With what belongs to rows from `first` on, a multiple of kSubTileRows unless tiles are narrow.
  TileScratch from_row(int first, const AttentionSpec& spec) const;
};

// A part of a tile: the blocks [block_begin, block_end) of those it needs.
struct TilePart {
  const AttentionCall* call = nullptr;
  const plan::Row* row = nullptr;
  std::int32_t head = 0;  // KV head
  int num_rows = 0;
  const TileRanges* ranges = nullptr;
  std::int32_t block_begin = 0;
  std::int32_t block_end = 0;
  TileScratch scratch;
};

// Partial results of rows: the output before it is divided by l, o [rows][value_dim], the maximum m
// of a row's logits and l, the sum of exp(logit - m).
struct Partial {
  float* o = nullptr;
  float* m = nullptr;
  float* l = nullptr;
};

// Fills in scratch.rows and scratch.logit_scale.
void set_up_rows(const AttentionCall& call, const plan::Row& row, std::int32_t head,
                 std::int32_t tile, int num_rows, const TileScratch& scratch);

// Where the keys [begin, begin + count) of a row lie, for one KV head.
void locate_keys(const AttentionCall& call, const plan::Row& row, std::int32_t head,
                 std::int64_t begin, int count, const std::byte** k, const std::byte** v);

// KV heads whose parts of one tile, of at most kSubTileRows rows each, can be computed together.
inline constexpr int kMaxJointHeads = kTileRows / kSubTileRows;

// The same rows and blocks of several KV heads, or one part alone. Results lie in the parts'
// scratch.
void compute_parts(const TilePart* parts, int count, Partial* results);

// into := into joined with from, in this order.
void merge_partial(const Partial& into, const Partial& from, int rows, int value_dim);

// out[i] = o[i] * factor in the tensor's dtype.
void store_output(const float* o, float factor, int n, void* out, DType dtype);

}  // namespace tilewright::cpu
