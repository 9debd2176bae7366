// SPDX-License-Identifier: Apache-2.0
// Parameters of the kernels of speculative verification: a plain struct that host and device share.
// Strides are in elements.
#pragma once

#include "sampling/params.h"

namespace tw {

// Rows [requests, nodes, ...].
struct NodeRows {
  const void* data;
  i64 request_stride;
  i64 node_stride;
};

// Integers or coins [requests, n]; `wide` elements have 64 bits.
struct RequestTable {
  const void* data;
  i64 request_stride;
  i64 stride;
  i32 wide;
};

struct VerifyParams {
  SampleParams sample;  // what it says of rows is of requests; no logits, tokens and status
  NodeRows target;      // [requests, nodes, vocabulary]
  NodeRows draft;       // or null
  NodeRows allowed;     // of logits, u32: a bit a token; or null
  RequestTable draft_tokens;
  RequestTable next_token;  // null: a chain
  RequestTable next_sibling;
  RequestTable coins;  // or null
  RequestTable final_coins;
  RequestTable tokens;    // written, [requests, length]
  RequestTable on_path;   // written, i32 [requests, length]; or null
  RequestTable counts;    // i32 [requests], of a chain; or null
  RequestTable emitted;   // written, i32 [requests]
  RequestTable accepted;  // the same; or null
  RequestTable status;    // the same; or null
  void* workspace;
  float threshold_single;
  float threshold_acc;
  i32 probabilities;  // rows are probabilities, not logits
  i32 requests;
  i32 nodes;
  i32 drafts;       // draft rows of a request
  i32 first_token;  // where the token of node 1 is in draft_tokens
  i32 length;
  i32 chunk;  // tokens of a chunk of a row
  i32 target_aligned;
  i32 draft_aligned;
};

// Rows that are read by chunks have at most so many: one for each lane of a warp.
inline constexpr i32 kChunks = 32;
inline constexpr i32 kChunkThreads = 256;
inline constexpr i32 kChunkWarps = kChunkThreads / 32;
inline constexpr i32 kChunkStep = kChunkThreads * 16;  // a chunk is a multiple of it

// Of the workspace, in numbers of 64 bits: of each node summaries of its target and its draft row,
// its token's weights in its parent's rows, two numbers of a rejection, and what chunks of both
// rows have found; of each request what is left in parts of chunks where it ends, and where that
// is.
inline constexpr i32 kSummaryWords = 9;
inline constexpr i32 kNodeWords = 2 * kSummaryWords + 4 + 4 * kChunks;
inline constexpr i32 kRequestWords = kChunks * kChunkWarps + 2;

// Of kernels that read chunks: a number of each warp.
inline constexpr i32 kChunkSharedBytes = kChunkWarps * 8;

// Of the kernel that walks: what it has in shared memory besides SampleMemory.
inline constexpr i32 kVerifySharedBytes = kSampleSharedBytes + 256;

}  // namespace tw
