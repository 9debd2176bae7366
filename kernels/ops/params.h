// SPDX-License-Identifier: Apache-2.0
// Parameters of the operators' kernels: plain structs that host and device share. Strides are in
// elements.
#pragma once

#include "arch/types.h"

namespace tw {

// The rows of a tensor [outer, inner, dim]; row r is (r / inner, r % inner).
struct RowsOf {
  void* data;
  i64 outer_stride;
  i64 inner_stride;
};

// What the values of an fp8 output are divided by: a number in device memory, or `value` where that
// is null.
struct OutScale {
  const float* data;
  float value;
};

// Runs of a row that a thread of a norm keeps in registers, where there are not more of them: with
// few registers a thread more rows are under way at a time, and of layer_norm's longer way more of
// them have to be.
inline constexpr i32 kRmsNormRuns = 2;
inline constexpr i32 kLayerNormRuns = 4;

struct RmsNormParams {
  RowsOf x;
  RowsOf residual;  // the fused form; else unused
  RowsOf out;
  OutScale out_scale;
  const void* weight;  // [dim]
  i32 rows;
  i32 inner;
  i32 dim;
  i32 row_threads;  // 32: a warp a row; else the block
  i32 aligned;      // all rows are aligned to runs
  i32 held;         // runs a thread has, at most
  float eps;
  float weight_offset;
};

struct LayerNormParams {
  RowsOf x;
  RowsOf out;
  OutScale out_scale;
  const void* weight;  // [dim]
  const void* bias;    // [dim], or null
  i32 rows;
  i32 inner;
  i32 dim;
  i32 row_threads;  // as RmsNormParams
  i32 aligned;
  i32 held;
  float eps;
};

struct ActivationParams {
  const void* x;  // [rows, 2 * dim]
  void* out;      // [rows, dim]
  i64 x_stride;
  i64 out_stride;
  i32 rows;
  i32 dim;
  i32 aligned;
};

struct GatherRowsParams {
  const void* x;  // [x_rows, dim]
  const void* indices;
  void* out;  // [rows, dim]
  i64 x_rows;
  i64 x_stride;
  i64 indices_stride;
  i64 out_stride;
  i32 indices_64;  // i64, not i32
  i32 rows;
  i32 dim;
  i32 aligned;
};

struct PackBitsParams {
  const u8* x;  // [rows, columns]
  u8* out;      // [rows, row_bytes]
  i64 x_stride;
  i64 out_stride;
  i64 columns;
  i32 rows;
  i32 row_bytes;
  i32 little;  // the first element is the lowest bit, not the highest
};

struct SegmentPackBitsParams {
  const u8* x;  // [elements]
  u8* out;      // [out_bytes]
  const void* indptr;
  void* out_indptr;
  i64 elements;
  i64 out_bytes;
  i64 segments;
  i64 indptr_stride;
  i64 out_indptr_stride;
  i32 indptr_64;  // i64, not i32
  i32 out_indptr_64;
  i32 parts;  // blocks of a segment
  i32 little;
};

struct MergeParams {
  const void* values;  // [tokens, states, heads, dim]
  const float* lse;    // [tokens, states, heads]
  void* out;           // [tokens, heads, dim]
  float* lse_out;      // [tokens, heads], or null
  i64 values_stride[3];
  i64 lse_stride[3];
  i64 out_stride[2];
  i64 lse_out_stride[2];
  i32 tokens;
  i32 states;
  i32 heads;
  i32 dim;
  i32 aligned;
};

struct RopeParams {
  static constexpr i32 kMaxPairs = 384;
  static constexpr i32 kMaxAxes = 4;

  RowsOf x;  // rows are (token, head)
  RowsOf out;
  const void* positions;  // [axes, tokens]
  i64 positions_stride[2];
  const void* table;  // [table_rows, 2 * pairs] of cosines and sines
  i64 table_stride;
  i64 table_rows;
  i32 positions_64;  // i64, not i32
  i32 tokens;
  i32 heads;
  i32 head_dim;
  i32 pairs;
  i32 interleaved;
  i32 aligned;
  float amplitude;
  u8 axis_of_pair[kMaxPairs];
  // Without a table: a position's turns, as a fraction of 2^64; whole turns do not matter.
  u64 turns[kMaxPairs];
};

// Keys or values of a cache write.
struct CacheSide {
  const void* from;  // [tokens, heads, dim]
  void* to;          // [pages, page_size, heads, dim]
  i64 from_stride[3];
  i64 to_stride[3];
  const float* scale;  // [requests, heads] by its strides, or null: scale_value
  i64 scale_stride[2];
  float scale_value;
  i32 dim;
  i32 aligned;
};

struct CacheWriteParams {
  CacheSide keys;
  CacheSide values;
  const void* slots;
  i64 slots_stride;
  const void* token_indptr;  // [requests + 1], or null: one request
  i64 token_indptr_stride;
  i32 slots_64;  // i64, not i32
  i32 token_indptr_64;
  i32 requests;
  i32 slots_end;  // pages * page_size
  i32 page_size;
  i32 tokens;
  i32 heads;
};

// The runs of a token's heads, and how a thread goes from one of its runs to the next.
struct HeadRuns {
  i32 heads;
  i32 runs;  // of a head
  i32 step_heads;
  i32 step_runs;
};

// Queries and keys rotated, keys and values into a cache.
struct RopeAndCacheParams {
  // Of a block: with more of them less of a token's time goes to what is found once.
  static constexpr i32 kBlockTokens = 4;
  static constexpr i32 kSlotBytes = 24 * kBlockTokens;  // of shared memory

  RopeParams rope;         // of queries
  CacheWriteParams cache;  // keys are rotated, too
  const void* q_weight;    // [head_dim] of an RMSNorm of each head, or null
  const void* k_weight;
  float eps;
  float weight_offset;
  i32 aligned;       // all of the call's
  i32 block_tokens;  // up to kBlockTokens
  HeadRuns pairs;    // of queries and keys: runs of pairs
  HeadRuns rest;     // and runs behind those that are rotated
  HeadRuns values;
};

}  // namespace tw
