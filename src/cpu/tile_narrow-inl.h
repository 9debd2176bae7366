// SPDX-License-Identifier: Apache-2.0
// Narrow tiles (decode): too few rows for the lanes, so the head dimension is in those of scores
// and values, keys in those of softmax. Compiled once for each SIMD target: included by
// tile_kernels.cpp after hwy/foreach_target.h.
#if defined(TILEWRIGHT_CPU_TILE_NARROW_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TILEWRIGHT_CPU_TILE_NARROW_INL_H_
#undef TILEWRIGHT_CPU_TILE_NARROW_INL_H_
#else
#define TILEWRIGHT_CPU_TILE_NARROW_INL_H_
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <type_traits>

#include "cpu/tile_block-inl.h"

HWY_BEFORE_NAMESPACE();
namespace tilewright::cpu::HWY_NAMESPACE {

// The sum of each vector's lanes, for kBlockVecs vectors.
HWY_INLINE void store_sums(const Vec (&x)[kBlockVecs], float factor, float* out) {
#if HWY_TARGET <= HWY_AVX3
  // Each step adds neighbours while it interleaves: sums of all four share the work.
  static_assert(kBlockVecs == 4);
  const hn::RepartitionToWide<Tag> pairs;
  const auto interleave = [&](Vec a, Vec b) HWY_ATTR {
    return hn::Add(hn::InterleaveLower(kTag, a, b), hn::InterleaveUpper(kTag, a, b));
  };
  const auto ab = hn::BitCast(pairs, interleave(x[0], x[1]));
  const auto cd = hn::BitCast(pairs, interleave(x[2], x[3]));
  const Vec of_blocks = hn::Add(hn::BitCast(kTag, hn::InterleaveLower(pairs, ab, cd)),
                                hn::BitCast(kTag, hn::InterleaveUpper(pairs, ab, cd)));
  const hn::Half<Tag> eight;
  const hn::Half<decltype(eight)> four;
  const auto halves = hn::Add(hn::LowerHalf(eight, of_blocks), hn::UpperHalf(eight, of_blocks));
  const auto sums = hn::Add(hn::LowerHalf(four, halves), hn::UpperHalf(four, halves));
  hn::Store(hn::Mul(sums, hn::Set(four, factor)), four, out);
#else
  for (int i = 0; i < kBlockVecs; ++i) {
    out[i] = hn::GetLane(hn::SumOfLanes(kTag, x[i])) * factor;
  }
#endif
}

template <int kRows, typename T>
void narrow_scores_of(const TilePart& part, const Block& block, int first_row) {
  const TileScratch& scratch = part.scratch;
  const int padded = padded_dim(part.call->spec->head_dim);
  const int lanes = static_cast<int>(hn::Lanes(kTag));
  const float* q = scratch.q + first_row * padded;
  // Keys beyond the block's end repeat its first one (load_block); their scores are overwritten.
  for (int key = 0; key < block.keys; key += kBlockVecs) {
    if (first_row == 0) prefetch_next(part, block, key, kBlockVecs);
    Vec sum[kRows][kBlockVecs];
    for (auto& of_row : sum) {
      for (Vec& x : of_row) x = hn::Zero(kTag);
    }
    for (int d = 0; d < padded; d += lanes) {
      Vec q_d[kRows];
      for (int r = 0; r < kRows; ++r) q_d[r] = hn::Load(kTag, q + r * padded + d);
      for (int j = 0; j < kBlockVecs; ++j) {
        const Vec k_d = io::load(kTag, block.k_row<T>(key + j) + d);
        for (int r = 0; r < kRows; ++r) sum[r][j] = hn::MulAdd(q_d[r], k_d, sum[r][j]);
      }
    }
    for (int r = 0; r < kRows; ++r) {
      store_sums(sum[r], scratch.logit_scale[first_row + r],
                 scratch.s + (first_row + r) * kBlockTokens + key);
    }
  }
}

// Scores of one row become weights; returns the factor for what was summed before.
inline float narrow_softmax(const TileScratch& scratch, int r) {
  const int lanes = static_cast<int>(hn::Lanes(kTag));
  float* s = scratch.s + r * kBlockTokens;
  Vec largest = hn::Set(kTag, scratch.m[r]);
  for (int key = 0; key < kBlockTokens; key += lanes) {
    largest = hn::Max(largest, hn::Load(kTag, s + key));
  }
  const Vec m = hn::MaxOfLanes(kTag, largest);
  const Vec shift = shift_of(m);
  Vec sum = hn::Zero(kTag);
  for (int key = 0; key < kBlockTokens; key += lanes) {
    const Vec weight = exp_of(hn::Sub(hn::Load(kTag, s + key), shift));
    hn::Store(weight, kTag, s + key);
    sum = hn::Add(sum, weight);
  }
  const float rescale = exp_of(scratch.m[r] - hn::GetLane(shift));
  scratch.m[r] = hn::GetLane(m);
  scratch.l[r] = scratch.l[r] * rescale + hn::GetLane(hn::SumOfLanes(kTag, sum));
  return rescale;
}

// Without softmax the scores are the weights; m is 0 in rows that have seen a key.
inline float narrow_plain_weights(const TileScratch& scratch, int r) {
  float* s = scratch.s + r * kBlockTokens;
  for (int key = 0; key < kBlockTokens; ++key) {
    if (s[key] == kNegInf) {
      s[key] = 0;
    } else {
      scratch.m[r] = 0;
    }
  }
  return 1;
}

template <int kRows, int kVecs, typename T>
void narrow_values_at(const TileScratch& scratch, const Block& block, int padded, int first_row,
                      const float* factor, int d) {
  const int lanes = static_cast<int>(hn::Lanes(kTag));
  Vec sum[kVecs][kRows];
  for (int r = 0; r < kRows; ++r) {
    const float* o = scratch.o + (first_row + r) * padded + d;
    for (int i = 0; i < kVecs; ++i) {
      sum[i][r] = hn::Mul(hn::Load(kTag, o + i * lanes), hn::Set(kTag, factor[first_row + r]));
    }
  }
  for (int key = 0; key < block.keys; ++key) {
    Vec weight[kRows];
    for (int r = 0; r < kRows; ++r) {
      weight[r] = hn::Set(kTag, scratch.s[(first_row + r) * kBlockTokens + key]);
    }
    for (int i = 0; i < kVecs; ++i) {
      const Vec v = io::load(kTag, block.v_row<T>(key) + d + i * lanes);
      for (int r = 0; r < kRows; ++r) sum[i][r] = hn::MulAdd(weight[r], v, sum[i][r]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    float* o = scratch.o + (first_row + r) * padded + d;
    for (int i = 0; i < kVecs; ++i) hn::Store(sum[i][r], kTag, o + i * lanes);
  }
}

template <int kRows, typename T>
void narrow_values_of(const TileScratch& scratch, const Block& block, int padded, int first_row,
                      const float* factor) {
  const int lanes = static_cast<int>(hn::Lanes(kTag));
  int d = 0;
  for (; d + kBlockVecs * lanes <= padded; d += kBlockVecs * lanes) {
    narrow_values_at<kRows, kBlockVecs, T>(scratch, block, padded, first_row, factor, d);
  }
  for (; d < padded; d += lanes) {
    narrow_values_at<kRows, 1, T>(scratch, block, padded, first_row, factor, d);
  }
}

template <typename Kernel>
void over_few_rows(int num_rows, const Kernel& kernel) {
  int done = 0;
  for (; done + 4 <= num_rows; done += 4) kernel(done, std::integral_constant<int, 4>());
  if (num_rows - done >= 2) {
    kernel(done, std::integral_constant<int, 2>());
    done += 2;
  }
  if (num_rows > done) kernel(done, std::integral_constant<int, 1>());
}

inline void narrow_block(const TilePart& part, const Block& block) {
  const TileScratch& scratch = part.scratch;
  const CompiledVariant& variant = *part.call->variant;
  visit_wide_float(block.k_dtype, [&](auto element) {
    over_few_rows(part.num_rows, [&](int first_row, auto rows) {
      narrow_scores_of<rows, decltype(element)>(part, block, first_row);
    });
  });
  float factor[kMaxNarrowRows];
  for (int r = 0; r < part.num_rows; ++r) {
    float* s = scratch.s + r * kBlockTokens;
    if (variant.logits.defined()) {
      variant.logits.eval_logits(scratch.rows[r].context, part.call->bindings, block.kv_pos, s, s,
                                 block.keys, scratch.program);
    }
    if (block.mixed) {
      find_allowed(part, block, scratch.rows[r]);
      for (int key = 0; key < block.keys; ++key) {
        if (scratch.allowed[key] == 0) s[key] = kNegInf;
      }
    }
    std::fill(s + block.keys, s + kBlockTokens, kNegInf);
    factor[r] = part.call->spec->variant.softmax ? narrow_softmax(scratch, r)
                                                 : narrow_plain_weights(scratch, r);
  }
  visit_wide_float(block.v_dtype, [&](auto element) {
    over_few_rows(part.num_rows, [&](int first_row, auto rows) {
      narrow_values_of<rows, decltype(element)>(
          scratch, block, padded_dim(part.call->spec->value_dim()), first_row, factor);
    });
  });
}

}  // namespace tilewright::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
