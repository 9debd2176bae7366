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

template <int kRows>
void narrow_scores_of(const TileScratch& scratch, const Block& block, int padded, int first_row) {
  const int lanes = static_cast<int>(hn::Lanes(kTag));
  const float* q = scratch.q + first_row * padded;
  for (int key = 0; key < block.keys; ++key) {
    Vec sum[kRows];
    for (Vec& x : sum) x = hn::Zero(kTag);
    for (int d = 0; d < padded; d += lanes) {
      const Vec k_d = hn::LoadU(kTag, block.k[key] + d);
      for (int r = 0; r < kRows; ++r) {
        sum[r] = hn::MulAdd(hn::Load(kTag, q + r * padded + d), k_d, sum[r]);
      }
    }
    for (int r = 0; r < kRows; ++r) {
      scratch.s[(first_row + r) * kBlockTokens + key] =
          hn::GetLane(hn::SumOfLanes(kTag, sum[r])) * scratch.logit_scale[first_row + r];
    }
  }
}

// Scores of one row become weights; returns the factor for what was summed before.
float narrow_softmax(const TileScratch& scratch, int r) {
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

template <int kRows>
void narrow_values_of(const TileScratch& scratch, const Block& block, int padded, int first_row,
                      const float* factor) {
  const int lanes = static_cast<int>(hn::Lanes(kTag));
  for (int d = 0; d < padded; d += lanes) {
    Vec sum[kRows];
    for (int r = 0; r < kRows; ++r) {
      sum[r] = hn::Mul(hn::Load(kTag, scratch.o + (first_row + r) * padded + d),
                       hn::Set(kTag, factor[first_row + r]));
    }
    for (int key = 0; key < block.keys; ++key) {
      const Vec v = hn::LoadU(kTag, block.v[key] + d);
      for (int r = 0; r < kRows; ++r) {
        const Vec weight = hn::Set(kTag, scratch.s[(first_row + r) * kBlockTokens + key]);
        sum[r] = hn::MulAdd(weight, v, sum[r]);
      }
    }
    for (int r = 0; r < kRows; ++r) {
      hn::Store(sum[r], kTag, scratch.o + (first_row + r) * padded + d);
    }
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

void narrow_block(const TilePart& part, const Block& block) {
  const TileScratch& scratch = part.scratch;
  const CompiledVariant& variant = *part.call->variant;
  over_few_rows(part.num_rows, [&](int first_row, auto rows) {
    narrow_scores_of<rows>(scratch, block, padded_dim(part.call->spec->head_dim), first_row);
  });
  float factor[kNarrowRows];
  for (int r = 0; r < part.num_rows; ++r) {
    float* s = scratch.s + r * kBlockTokens;
    if (variant.logits.defined()) {
      variant.logits.eval_logits(scratch.rows[r].context, part.call->bindings, scratch.kv_pos, s, s,
                                 block.keys, scratch.program);
    }
    if (block.mixed) {
      find_allowed(part, block, scratch.rows[r]);
      for (int key = 0; key < block.keys; ++key) {
        if (scratch.allowed[key] == 0) s[key] = kNegInf;
      }
    }
    std::fill(s + block.keys, s + kBlockTokens, kNegInf);
    factor[r] = narrow_softmax(scratch, r);
  }
  over_few_rows(part.num_rows, [&](int first_row, auto rows) {
    narrow_values_of<rows>(scratch, block, padded_dim(part.call->spec->value_dim()), first_row,
                           factor);
  });
}

}  // namespace tilewright::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
