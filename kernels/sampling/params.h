// SPDX-License-Identifier: Apache-2.0
// Parameters of the sampling kernel: a plain struct that host and device share. Strides are in
// elements.
#pragma once

#include "arch/types.h"

namespace tw {

// A number for all rows, or where `data` is given, one for each.
template <typename T>
struct RowValues {
  const void* data;
  i64 stride;
  T value;
};

// Histograms have copies, so that the lanes of a warp seldom add to one number.
inline constexpr i32 kDigits = 256;
inline constexpr i32 kCopies = 8;
// Stretches of a row whose measures `locate` keeps.
inline constexpr i32 kStretches = 1024;

// The block's shared memory.
struct SampleMemory {
  u64 histogram[kDigits * kCopies];
  u64 stretches[kStretches];
  u64 of_warps[32];
  u64 result[3];
};
inline constexpr i32 kSampleSharedBytes = sizeof(SampleMemory);

// Of the kernel that has a cluster of blocks for a row.
inline constexpr i32 kClusterThreads = 512;
inline constexpr i32 kBlockLogits = 16384;
inline constexpr i32 kMostBlocks = 16;
inline constexpr i32 kClusterSharedBytes = 100 * 1024;  // two blocks have an SM

struct SampleParams {
  const void* logits;  // [rows, vocabulary]
  i64 logits_stride;
  void* tokens;  // [rows]
  i64 tokens_stride;
  RowValues<float> temperature;
  RowValues<i32> top_k;
  RowValues<float> top_p;
  RowValues<float> min_p;
  RowValues<i64> seeds;
  RowValues<i64> steps;
  i32 tokens_64;  // i64, not i32
  i32 vocabulary;
  i32 aligned;      // all rows are aligned to runs
  i32 warp_logits;  // of a row in a cluster: a multiple of 128, so that its warps have all
};

}  // namespace tw
