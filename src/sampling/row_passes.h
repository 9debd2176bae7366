// SPDX-License-Identifier: Apache-2.0
// Vectorised passes over the logits of one row, or over a list of candidates from it. All take a
// range [begin, end) whose start is a multiple of kMassBlock, so that ranges can be dealt out to
// threads.
#pragma once

#include <tilewright/tensor_view.h>

#include <cstdint>
#include <limits>

#include "sampling/weight.h"

namespace tilewright {

struct Logits {
  const void* values = nullptr;
  DType dtype = DType::f32;
  const std::int32_t* ids = nullptr;  // ascending; null: entry i is token i
  std::int64_t count = 0;

  std::int32_t id(std::int64_t i) const {
    return ids == nullptr ? static_cast<std::int32_t>(i) : ids[i];
  }
};

// A filter: tokens above the threshold, and those at it up to the id `last_tie`.
struct Kept {
  float threshold = -std::numeric_limits<float>::infinity();
  std::int32_t last_tie = std::numeric_limits<std::int32_t>::max();

  bool contains(float logit, std::int32_t id) const {
    return logit > threshold || (logit == threshold && id <= last_tie);
  }
};

inline constexpr std::int64_t kMaximumBlock = 128;  // entries to a block maximum
inline constexpr std::int64_t kMassBlock = 256;     // entries to a block mass

// Lists that passes write need this many entries more than they hold: whole vectors are stored.
inline constexpr std::int64_t kListPadding = 64;

// maxima[b] is the largest logit of block b.
void find_block_maxima(const Logits& logits, std::int64_t begin, std::int64_t end, float* maxima);

bool has_nan(const Logits& logits, std::int64_t begin, std::int64_t end);

// Copies kept entries in order; returns their number. With `maxima`, blocks that cannot hold any
// are skipped.
std::int64_t compact(const Logits& logits, std::int64_t begin, std::int64_t end, const Kept& kept,
                     const float* maxima, float* values, std::int32_t* ids);

// masses[b] is the sum of the weights of block b's kept entries that are not below `least_weight`.
void sum_block_masses(const Logits& logits, std::int64_t begin, std::int64_t end, const Kept& kept,
                      std::uint64_t least_weight, const WeightScale& scale, std::uint64_t* masses);

// What lies above `high`, and the entries in [low, high] with the least and the largest of them.
struct Split {
  std::uint64_t above = 0;  // their mass, or their number
  std::int64_t middle = 0;
  float least = std::numeric_limits<float>::infinity();
  float largest = -std::numeric_limits<float>::infinity();
};
Split split_by_mass(const Logits& logits, std::int64_t begin, std::int64_t end, float low,
                    float high, const WeightScale& scale, float* middle);
Split split_by_count(const Logits& logits, std::int64_t begin, std::int64_t end, float low,
                     float high, float* middle);

// A split by mass that keeps what drawing needs, in one read: of each block the mass above `high`
// (masses) and how many of its entries are in `middle` (counts). Returns the mass of all entries
// and the number of those in the middle.
struct BlockSplit {
  std::uint64_t total = 0;
  std::int64_t middle = 0;
};
BlockSplit split_blocks(const Logits& logits, std::int64_t begin, std::int64_t end, float low,
                        float high, const WeightScale& scale, std::uint64_t* masses,
                        std::int32_t* counts, float* middle);

// masses[b] += the weights, if not below `least_weight`, of the next counts[b] entries of `middle`
// that are not below `threshold`, for `blocks` blocks. Returns how many entries these were.
std::int64_t add_middle(const float* middle, std::int64_t blocks, const std::int32_t* counts,
                        float threshold, std::uint64_t least_weight, const WeightScale& scale,
                        std::uint64_t* masses);

// Entry i, cleaned.
float logit_at(const Logits& logits, std::int64_t i);

// The id of the entry that is number `rank` (from 1) of those equal to `value`.
std::int32_t find_tie(const Logits& logits, float value, std::int64_t rank);

}  // namespace tilewright
