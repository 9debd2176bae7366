// SPDX-License-Identifier: Apache-2.0
// What is kept of a row that a cluster has, and the outputs that have something of each token.
#pragma once

#include "sampling/cluster_row.h"

namespace tw {

// Known to all blocks. What has been dropped from the row is not kept either.
struct KeptOfRow {
  bool alone;     // there is no draw: only this token, as if its value were 0 and the largest one
  bool infinite;  // the row is that of keep_infinite()
  i32 token;
  Kept kept;
  u64 least;  // weight
  WeightScale scale;
  u64 mass;

  // But for the least weight.
  TW_DEVICE bool may_have(i32 id, float value) const {
    return alone ? id == token : (value > -kInfinity) & kept.contains(id, value);
  }
  TW_DEVICE bool has(i32 id, float value) const {
    return may_have(id, value) && (alone || token_weight(value, scale) >= least);
  }
  TW_DEVICE float log_prob(float value) const {
    return log_probability(relative_log2(value, scale), mass);
  }
};

// The first `count` elements of a run, all if there are more.
template <typename To>
TW_DEVICE void store_run_of(const float (&run)[kClusterRun], To* to, i32 count) {
  constexpr u64 kRunBytes = kClusterRun * sizeof(To);
  if ((reinterpret_cast<u64>(to) % kRunBytes == 0) & (count >= kClusterRun)) {
    write_run(pack_run<To>(run), to);
    return;
  }
#pragma unroll
  for (i32 j = 0; j < kClusterRun; ++j) {
    if (j < count) to[j] = from_float<To>(run[j]);
  }
}

template <typename T>
TW_DEVICE void store_row(const OutputParams& out, i64 index, const ClusterRow<float>& row,
                         const KeptOfRow left) {
  if (out.kept == nullptr && out.probabilities == nullptr && out.masked == nullptr) return;
  const auto total = static_cast<float>(left.mass);
  row.for_values([&](i32 id, const float(&values)[kClusterRun]) {
    const i32 count = row.count - id;
    bool has[kClusterRun];
    u32 bits = 0;
#pragma unroll
    for (i32 j = 0; j < kClusterRun; ++j) {
      has[j] = left.may_have(id + j, values[j]);
      bits |= has[j] ? 1U << j : 0;
    }
    // Most warps have nothing that is kept.
    float of_draw[kClusterRun] = {};
    if (any_of_warp(bits != 0)) {
      bits = 0;
#pragma unroll
      for (i32 j = 0; j < kClusterRun; ++j) {
        const u64 weight = left.alone ? left.mass : converted_weight(values[j], left.scale);
        has[j] &= weight >= left.least;
        bits |= has[j] ? 1U << j : 0;
        if (has[j]) of_draw[j] = static_cast<float>(weight);
      }
    }
    if (out.kept != nullptr) {
      // Eight lanes have a word.
      u32 word = bits << id % 32;
#pragma unroll
      for (i32 mask = 1; mask < 32 / kClusterRun; mask *= 2) word |= shuffle_xor(word, mask);
      if ((id % 32 == 0) & (count > 0)) out.kept[index * out.kept_stride + id / 32] = word;
    }
    if (out.probabilities != nullptr) {
      if (any_of_warp(bits != 0)) {
#pragma unroll
        for (i32 j = 0; j < kClusterRun; ++j) of_draw[j] = divide_exact(of_draw[j], total);
      }
      store_run_of(of_draw, out.probabilities + index * out.probabilities_stride + id, count);
    }
    if (out.masked != nullptr) {
      float run[kClusterRun];
#pragma unroll
      for (i32 j = 0; j < kClusterRun; ++j)
        run[j] = !has[j] ? -kInfinity : left.infinite ? kInfinity : add_exact(values[j], 0.0F);
      const i64 at = index * out.masked_stride + id;
      if (out.masked_f32 != 0) {
        store_run_of(run, static_cast<float*>(out.masked) + at, count);
      } else {
        store_run_of(run, static_cast<T*>(out.masked) + at, count);
      }
    }
  });
}

}  // namespace tw
