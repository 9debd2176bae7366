// SPDX-License-Identifier: Apache-2.0
// Wide tiles: query rows in the SIMD lanes. Keys and values are broadcast element by element, and
// maximum, sum and mask are plain lane-wise operations. Compiled once for each SIMD target:
// included by tile_kernels.cpp after hwy/foreach_target.h.
#if defined(TILEWRIGHT_CPU_TILE_WIDE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TILEWRIGHT_CPU_TILE_WIDE_INL_H_
#undef TILEWRIGHT_CPU_TILE_WIDE_INL_H_
#else
#define TILEWRIGHT_CPU_TILE_WIDE_INL_H_
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <type_traits>

#include "cpu/tile_block-inl.h"

HWY_BEFORE_NAMESPACE();
namespace tilewright::cpu::HWY_NAMESPACE {

// Accumulators of a register block: kWideVecs of rows times kWideKeys keys, or as many dims.
constexpr int kWideVecs = 2;
constexpr int kWideKeys = HWY_TARGET <= HWY_AVX3 ? 8 : 4;  // divides every head_dim

template <int kVecs>
void wide_scores_of(const TileScratch& scratch, const Block& block, int dim, int first_row) {
  const int lanes = static_cast<int>(hn::Lanes(kTag));
  for (int key = block.first; key < block.last; key += kWideKeys) {
    Vec sum[kWideKeys][kVecs];
    for (auto& of_key : sum) {
      for (Vec& x : of_key) x = hn::Zero(kTag);
    }
    const float* q = scratch.q + first_row;
    for (int d = 0; d < dim; ++d, q += kSubTileRows) {
      Vec q_d[kVecs];
      for (int i = 0; i < kVecs; ++i) q_d[i] = hn::Load(kTag, q + i * lanes);
      for (int j = 0; j < kWideKeys; ++j) {
        const Vec k_d = hn::Set(kTag, block.k_row<float>(key + j)[d]);
        for (int i = 0; i < kVecs; ++i) sum[j][i] = hn::MulAdd(q_d[i], k_d, sum[j][i]);
      }
    }
    for (int j = 0; j < kWideKeys; ++j) {
      for (int i = 0; i < kVecs; ++i) {
        const Vec scale = hn::Load(kTag, scratch.logit_scale + first_row + i * lanes);
        hn::Store(hn::Mul(sum[j][i], scale), kTag,
                  scratch.s + (key + j) * kSubTileRows + first_row + i * lanes);
      }
    }
  }
}

inline void wide_variant(const TilePart& part, const Block& block) {
  const TileScratch& scratch = part.scratch;
  const int first = block.first;
  const int keys = block.last - first;
  float* const s = scratch.s + first * kSubTileRows;
  float* const lines = scratch.lines + first;
  transpose(s, kSubTileRows, keys, part.num_rows, lines, kBlockTokens);
  for (int r = 0; r < part.num_rows; ++r) {
    float* const line = lines + r * kBlockTokens;
    part.call->variant->logits.eval_logits(scratch.rows[r].context, part.call->bindings,
                                           block.kv_pos + first, line, line, keys, scratch.program);
  }
  transpose(lines, kBlockTokens, part.num_rows, keys, s, kSubTileRows);
}

// Whether the keys that a row attends to are one interval, which is then in scratch.key_begin and
// key_end.
inline bool has_one_interval(const TileRow& row) {
  return row.exact_keys && row.keys.count <= 1;
}

// Finds which keys of a mixed block each row of a sub-tile attends to, as far as intervals tell,
// and narrows [first, last) down to them; false: there are none. What is left out would have added
// exactly zero.
inline bool find_row_keys(const TilePart& part, Block& block) {
  const TileScratch& scratch = part.scratch;
  const auto within = [&](std::int64_t key) {
    return static_cast<std::int32_t>(
        std::clamp<std::int64_t>(key - block.key_begin, 0, block.keys));
  };
  std::int32_t first = block.keys;
  std::int32_t last = 0;
  for (int r = 0; r < kSubTileRows; ++r) {
    std::int32_t begin = 0;
    std::int32_t end = 0;
    if (r < part.num_rows) {
      const TileRow& row = scratch.rows[r];
      if (!row.exact_keys) {
        end = block.keys;
      } else if (row.keys.count > 0) {
        begin = within(row.keys.intervals[0].begin);
        end = within(row.keys.intervals[row.keys.count - 1].end);
      }
    }
    scratch.key_begin[r] = begin;
    scratch.key_end[r] = end;
    if (begin >= end) continue;
    first = std::min(first, begin);
    last = std::max(last, end);
  }
  if (first >= last) return false;
  block.first = first / 16 * 16;
  block.last = std::min((last + 7) / 8 * 8, block.keys);
  return true;
}

// Rows with one interval of keys are masked all together, the others each by itself.
inline void wide_mask(const TilePart& part, const Block& block) {
  const TileScratch& scratch = part.scratch;
  for (int r = 0; r < part.num_rows; ++r) {
    const TileRow& row = scratch.rows[r];
    if (has_one_interval(row)) continue;
    find_allowed(part, block, row);
    for (int key = block.first; key < block.last; ++key) {
      if (scratch.allowed[key] == 0) scratch.s[key * kSubTileRows + r] = kNegInf;
    }
  }
  const IntTag ints;
  const int lanes = static_cast<int>(hn::Lanes(kTag));
  for (int r = 0; r < part.num_rows; r += lanes) {
    const auto begin = hn::Load(ints, scratch.key_begin + r);
    const auto end = hn::Load(ints, scratch.key_end + r);
    for (int key = block.first; key < block.last; ++key) {
      const auto at = hn::Set(ints, key);
      const auto inside = hn::And(hn::Not(hn::Lt(at, begin)), hn::Lt(at, end));
      float* s = scratch.s + key * kSubTileRows + r;
      hn::Store(
          hn::IfThenElse(hn::RebindMask(kTag, inside), hn::Load(kTag, s), hn::Set(kTag, kNegInf)),
          kTag, s);
    }
  }
}

// Scores become weights; m and l advance; `factor` gets the factor for what was summed before.
// Several maxima and sums at a time: one after the other they would wait for each other.
inline void wide_softmax(const TilePart& part, const Block& block, float* factor) {
  constexpr int kChains = 4;
  const TileScratch& scratch = part.scratch;
  const int lanes = static_cast<int>(hn::Lanes(kTag));
  for (int r = 0; r < part.num_rows; r += lanes) {
    float* const s = scratch.s + r;
    const Vec before = hn::Load(kTag, scratch.m + r);
    Vec largest[kChains] = {before, before, before, before};
    int key = block.first;
    for (; key + kChains <= block.last; key += kChains) {
      for (int i = 0; i < kChains; ++i) {
        largest[i] = hn::Max(largest[i], hn::Load(kTag, s + (key + i) * kSubTileRows));
      }
    }
    for (; key < block.last; ++key) {
      largest[0] = hn::Max(largest[0], hn::Load(kTag, s + key * kSubTileRows));
    }
    const Vec m = hn::Max(hn::Max(largest[0], largest[1]), hn::Max(largest[2], largest[3]));
    const Vec shift = shift_of(m);
    Vec sums[kChains] = {hn::Zero(kTag), hn::Zero(kTag), hn::Zero(kTag), hn::Zero(kTag)};
    const auto weigh = [&](float* score, Vec& sum) HWY_ATTR {
      const Vec weight = exp_of(hn::Sub(hn::Load(kTag, score), shift));
      hn::Store(weight, kTag, score);
      sum = hn::Add(sum, weight);
    };
    for (key = block.first; key + kChains <= block.last; key += kChains) {
      for (int i = 0; i < kChains; ++i) weigh(s + (key + i) * kSubTileRows, sums[i]);
    }
    // Which sum a key goes to must not depend on where the block ends, or a row's bits would.
    for (int i = 0; i < kChains; ++i) {
      if (key + i < block.last) weigh(s + (key + i) * kSubTileRows, sums[i]);
    }
    const Vec sum = hn::Add(hn::Add(sums[0], sums[1]), hn::Add(sums[2], sums[3]));
    const Vec rescale = exp_of(hn::Sub(before, shift));
    hn::Store(m, kTag, scratch.m + r);
    hn::Store(hn::MulAdd(hn::Load(kTag, scratch.l + r), rescale, sum), kTag, scratch.l + r);
    hn::Store(rescale, kTag, factor + r);
  }
}

// Without softmax the scores are the weights; m is 0 in rows that have seen a key.
inline void wide_plain_weights(const TilePart& part, const Block& block, float* factor) {
  const TileScratch& scratch = part.scratch;
  const int lanes = static_cast<int>(hn::Lanes(kTag));
  const Vec masked = hn::Set(kTag, kNegInf);
  for (int r = 0; r < part.num_rows; r += lanes) {
    Vec m = hn::Load(kTag, scratch.m + r);
    for (int key = block.first; key < block.last; ++key) {
      float* s = scratch.s + key * kSubTileRows + r;
      const Vec score = hn::Load(kTag, s);
      const auto is_masked = hn::Eq(score, masked);
      hn::Store(hn::IfThenZeroElse(is_masked, score), kTag, s);
      m = hn::IfThenElse(is_masked, m, hn::Zero(kTag));
    }
    hn::Store(m, kTag, scratch.m + r);
    hn::Store(hn::Set(kTag, 1.0F), kTag, factor + r);
  }
}

template <int kVecs>
void wide_values_of(const TileScratch& scratch, const Block& block, int dim, int first_row,
                    const float* factor) {
  const int lanes = static_cast<int>(hn::Lanes(kTag));
  Vec rescale[kVecs];
  for (int i = 0; i < kVecs; ++i) rescale[i] = hn::Load(kTag, factor + first_row + i * lanes);
  for (int d = 0; d < dim; d += kWideKeys) {
    Vec sum[kWideKeys][kVecs];
    float* o = scratch.o + d * kSubTileRows + first_row;
    for (int j = 0; j < kWideKeys; ++j) {
      for (int i = 0; i < kVecs; ++i) {
        sum[j][i] = hn::Mul(hn::Load(kTag, o + j * kSubTileRows + i * lanes), rescale[i]);
      }
    }
    for (int key = block.first; key < block.last; ++key) {
      const float* v = block.v_row<float>(key) + d;
      for (int i = 0; i < kVecs; ++i) {
        const Vec weight = hn::Load(kTag, scratch.s + key * kSubTileRows + first_row + i * lanes);
        for (int j = 0; j < kWideKeys; ++j) {
          sum[j][i] = hn::MulAdd(weight, hn::Set(kTag, v[j]), sum[j][i]);
        }
      }
    }
    for (int j = 0; j < kWideKeys; ++j) {
      for (int i = 0; i < kVecs; ++i) {
        hn::Store(sum[j][i], kTag, o + j * kSubTileRows + i * lanes);
      }
    }
  }
}

// Runs kernel(first_row, vectors) over the rows in register blocks; `vectors` is a compile-time
// constant.
template <typename Kernel>
void over_rows(int num_rows, const Kernel& kernel) {
  const int lanes = static_cast<int>(hn::Lanes(kTag));
  const int vectors = (num_rows + lanes - 1) / lanes;
  int done = 0;
  for (; done + kWideVecs <= vectors; done += kWideVecs) {
    kernel(done * lanes, std::integral_constant<int, kWideVecs>());
  }
  if (done < vectors) kernel(done * lanes, std::integral_constant<int, 1>());
}

inline void wide_block(const TilePart& part, const Block& block) {
  const TileScratch& scratch = part.scratch;
  over_rows(part.num_rows, [&](int first_row, auto vectors) {
    wide_scores_of<vectors>(scratch, block, part.call->spec->head_dim, first_row);
  });
  if (part.call->variant->logits.defined()) wide_variant(part, block);
  if (block.mixed) wide_mask(part, block);
  HWY_ALIGN float factor[kSubTileRows];
  part.call->spec->variant.softmax ? wide_softmax(part, block, factor)
                                   : wide_plain_weights(part, block, factor);
  over_rows(part.num_rows, [&](int first_row, auto vectors) {
    wide_values_of<vectors>(scratch, block, part.call->spec->value_dim(), first_row, factor);
  });
}

}  // namespace tilewright::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
