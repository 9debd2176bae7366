// SPDX-License-Identifier: Apache-2.0
// Parameters of the sampling kernel: a plain struct that host and device share. Strides are in
// elements.
#pragma once

#include "arch/types.h"

namespace tw {

// A number for all rows, or where `data` is given, one for each of their entries.
template <typename T>
struct RowValues {
  const void* data;
  i64 stride;
  T value;
};

// A table with a row for each entry, or null.
struct RowTable {
  const void* data;
  i64 stride;
};

// What is done to logits before temperature.
struct ProcessParams {
  RowTable allowed;        // u32: a bit a token
  RowTable bias_ids;       // i32 [biases]; -1: unused
  RowTable bias_values;    // f32 [biases]
  RowTable output_counts;  // i32 [vocabulary]
  RowTable prompt_bits;    // u32: a bit a token
  RowValues<float> repetition;
  RowValues<float> frequency;
  RowValues<float> presence;
  i32 biases;
};

// Bits of a row's status, as SamplingStatus has them.
inline constexpr u32 kStatusNan = 1;
inline constexpr u32 kStatusInfinity = 2;
inline constexpr u32 kStatusNoCandidate = 4;
inline constexpr u32 kStatusBadParameter = 8;
inline constexpr u32 kStatusSlot = 16;
inline constexpr u32 kStatusNegative = 32;

// The order of filters, as FilterOrder has them.
enum class Order : i32 { hf, joint, vllm, llamacpp };

// Histograms have copies, so that the lanes of a warp seldom add to one number.
inline constexpr i32 kDigits = 256;
inline constexpr i32 kCopies = 8;
// Stretches of a row whose measures `locate` keeps.
inline constexpr i32 kStretches = 1024;
// Words of a bias filter.
inline constexpr i32 kBiasWords = 1024;

// What is done to logits of one row; what is off is null or zero.
struct LogitProcess {
  const u32* allowed;  // a bit a token
  const i32* bias_ids;
  const float* bias_values;
  i32 biases;
  const u32* bias_filter;  // in shared memory: a bit is set if a token of its hash may have a bias
  const i32* counts;       // of a token in the output
  const u32* prompt;       // a bit a token
  float repetition;
  float frequency;
  float presence;
};

// The block's shared memory.
struct SampleMemory {
  u64 histogram[kDigits * kCopies];
  u64 stretches[kStretches];
  u64 of_warps[32];
  u64 result[3];
  u32 bias_filter[kBiasWords];
  LogitProcess process;
};
inline constexpr i32 kSampleSharedBytes = sizeof(SampleMemory);

// The entries of a row that come first, sorted.
inline constexpr i32 kMostBest = 2048;
struct BestList {
  u64 entries[kMostBest];
  u32 count;
};

// The block's shared memory where it lists entries.
struct BestMemory {
  SampleMemory row;
  BestList best;
};
inline constexpr i32 kBestSharedBytes = sizeof(BestMemory);

// Of the kernel that has a cluster of blocks for a row.
inline constexpr i32 kClusterThreads = 256;
inline constexpr i32 kBlockBytes = 64 * 1024;  // of logits
inline constexpr i32 kMostBlocks = 16;
// Three blocks have an SM, two where they list entries.
inline constexpr i32 kClusterSharedBytes = 75 * 1024;
inline constexpr i32 kClusterBestSharedBytes = 92 * 1024;

// What a call gives beside its tokens; null where it is not wanted.
struct LogProbParams {
  float* chosen;  // [rows]
  i64 chosen_stride;
  i32* ranks;  // [rows]
  i64 ranks_stride;
  float* best;  // [rows, n]
  i64 best_stride;
  i32* best_ids;  // [rows, n]
  i64 best_ids_stride;
  i32 n;
};
struct OutputParams {
  u32* kept;  // [rows, ceil(vocabulary / 32)]
  i64 kept_stride;
  float* probabilities;  // [rows, vocabulary]
  i64 probabilities_stride;
  void* masked;  // [rows, vocabulary]
  i64 masked_stride;
  i32 masked_f32;  // else the logits' type
  LogProbParams raw;
  LogProbParams processed;
};

struct SampleParams {
  const void* logits;  // [rows, vocabulary]
  i64 logits_stride;
  void* tokens;  // [rows]
  i64 tokens_stride;
  const void* slots;  // i32 [rows]: a row's entry in the parameters; null: entry r is row r's
  i64 slots_stride;
  void* status;  // i32 [rows], written; or null
  i64 status_stride;
  RowValues<float> temperature;
  RowValues<i32> top_k;
  RowValues<float> top_p;
  RowValues<float> min_p;
  RowValues<float> typical_p;
  RowValues<i64> seeds;
  RowValues<i64> steps;
  ProcessParams process;
  Order order;
  i32 entries;    // of tensors of parameters; 0: there are none
  i32 tokens_64;  // i64, not i32
  i32 vocabulary;
  i32 aligned;      // all rows are aligned to runs
  i32 warp_logits;  // of a row in a cluster: a multiple of 128, so that its warps have all
  OutputParams outputs;
};

// Of the kernels of top_k().
struct TopKParams {
  const void* logits;  // [rows, vocabulary]
  i64 logits_stride;
  void* values;  // [rows, k], the logits' type
  i64 values_stride;
  void* indices;  // [rows, k]
  i64 indices_stride;
  i32 indices_64;  // i64, not i32
  i32 k;
  i32 vocabulary;
  i32 aligned;      // as in SampleParams
  i32 warp_logits;  // as in SampleParams
};

}  // namespace tw
