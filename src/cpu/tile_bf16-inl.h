// SPDX-License-Identifier: Apache-2.0
// Wide tiles of bf16 and fp8 on the CPU's bf16 instructions (Bf16Kernels): keys and queries are
// never widened. Masks and logits expressions are those of wide tiles. Compiled once for each SIMD
// target: included by tile_kernels.cpp after hwy/foreach_target.h.
#if defined(TILEWRIGHT_CPU_TILE_BF16_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TILEWRIGHT_CPU_TILE_BF16_INL_H_
#undef TILEWRIGHT_CPU_TILE_BF16_INL_H_
#else
#define TILEWRIGHT_CPU_TILE_BF16_INL_H_
#endif

#include <hwy/highway.h>

#include <cmath>
#include <cstring>

#include "cpu/tile_bf16.h"
#include "cpu/tile_wide-inl.h"

HWY_BEFORE_NAMESPACE();
namespace tilewright::cpu::HWY_NAMESPACE {

// Elements [0, n) of a row of bf16 or fp8 as bf16, zeros up to `padded`.
inline void load_bf16_row(const std::byte* source, DType dtype, int n, int padded,
                          std::uint16_t* out) {
  if (dtype == DType::bf16) {
    std::memcpy(out, source, static_cast<std::size_t>(n) * 2);
  } else {
    const auto convert = [&](const auto* from) HWY_ATTR {
      auto* to = reinterpret_cast<BF16*>(out);
      io::for_lanes(kTag, static_cast<std::size_t>(n), [&](std::size_t i, auto lanes) HWY_ATTR {
        io::store(kTag, io::load(kTag, from + i, lanes), to + i, lanes);
      });
    };
    dtype == DType::f8e4m3 ? convert(reinterpret_cast<const F8E4M3*>(source))
                           : convert(reinterpret_cast<const F8E5M2*>(source));
  }
  std::fill(out + n, out + padded, std::uint16_t{0});
}

// A block of keys, its place among the packed ones, and where its values lie that are not finite.
struct Bf16Block : Block {
  int place = 0;
  const std::byte* wild_values[kBlockTokens];
};

inline bool all_finite(const std::uint16_t* values, int n) {
  constexpr std::uint16_t kExponent = 0x7F80;
  std::uint16_t wild = 0;
  for (int i = 0; i < n; ++i) wild |= (values[i] & kExponent) == kExponent ? 1 : 0;
  return wild == 0;
}

inline std::uint16_t* keys_of(const TilePart& part, int place) {
  return part.scratch.k_packed + place * kBlockTokens * tile_dim(part.call->spec->head_dim);
}
inline std::uint16_t* value_columns_of(const TilePart& part, int place) {
  return part.scratch.v_columns + place * kBlockTokens * tile_dim(part.call->spec->value_dim());
}

inline void load_bf16_keys(const TilePart& part, const Bf16Block& block) {
  const AttentionSpec& spec = *part.call->spec;
  const DType dtype = part.call->kv[part.row->level].k.dtype;
  const int dim = tile_dim(spec.head_dim);
  std::uint16_t* const k = keys_of(part, block.place);
  for (int key = 0; key < block.keys; ++key) {
    if (key < block.next_keys) {
      prefetch_row(part.scratch.next_k_rows[key], spec.head_dim * dtype_bytes(dtype));
    }
    load_bf16_row(part.scratch.k_rows[key], dtype, spec.head_dim, dim, k + key * dim);
  }
  std::fill(k + block.keys * dim, k + kBlockTokens * dim, std::uint16_t{0});
}

// Values that are not finite are set aside (Block::wild).
inline void load_bf16_values(const TilePart& part, const Bf16Kernels& kernels, Bf16Block& block,
                             bool keep) {
  const TileScratch& scratch = part.scratch;
  const int dim = part.call->spec->value_dim();
  const int padded = tile_dim(dim);
  const DType dtype = part.call->kv[part.row->level].v.dtype;
  const bool in_place = dtype == DType::bf16 && dim == padded;
  const auto* const zeros = reinterpret_cast<const std::uint16_t*>(scratch.zeros);
  const std::uint16_t* rows[kBlockTokens];
  std::fill(rows + block.keys, rows + kBlockTokens, zeros);
  for (int key = 0; key < block.keys; ++key) {
    if (key < block.next_keys) prefetch_row(scratch.next_v_rows[key], dim * dtype_bytes(dtype));
    if (in_place) {
      rows[key] = reinterpret_cast<const std::uint16_t*>(scratch.v_rows[key]);
    } else {
      auto* const row = reinterpret_cast<std::uint16_t*>(scratch.v) + key * padded;
      load_bf16_row(scratch.v_rows[key], dtype, dim, padded, row);
      rows[key] = row;
    }
    if ((block.mixed || keep) && !all_finite(rows[key], dim)) {
      block.wild |= std::uint64_t{1} << key;
      block.wild_values[key] = scratch.v_rows[key];
      rows[key] = zeros;
    }
  }
  kernels.transpose_values(rows, padded, value_columns_of(part, block.place));
}

// Loads up to kBf16Blocks blocks from the n-th on, before the end-th, that follow each other, also
// where they are packed; returns how many.
inline int load_bf16_blocks(const TilePart& part, const Bf16Kernels& kernels, std::int32_t n,
                            std::int32_t end, const Next& next, Bf16Block* blocks) {
  PackedKeys& packed = *part.scratch.packed;
  const int kept = part.row->tiles > 1
                       ? kept_blocks(part.call->spec->head_dim, part.call->spec->value_dim())
                       : 0;
  if (kept > 0 && (packed.row != part.row || packed.head != part.head)) {
    packed = {part.row, part.head, {}};
  }
  const std::int32_t first = part.ranges->nth(n);
  const bool keep = kept > 0 && (part.ranges->blocks <= kept || first < kept);
  const int first_place = keep ? first % kept : 0;
  const int most = std::min({kBf16Blocks, end - n, keep ? kept - first_place : kBf16Blocks});
  int count = 0;
  for (; count < most && part.ranges->nth(n + count) == first + count; ++count) {
    Bf16Block& block = blocks[count];
    static_cast<Block&>(block) = find_block(part, n + count, next, count);
    block.place = keep ? kBf16Blocks + first_place + count : count;
    if (keep && packed.number[first_place + count] == first + count + 1) continue;
    load_bf16_keys(part, block);
    load_bf16_values(part, kernels, block, keep);
    if (keep) packed.number[first_place + count] = block.wild == 0 ? first + count + 1 : 0;
  }
  return count;
}

// q as pairs [dim pair][kSubTileRows] and the rows' scales. A negative scale is a sign of q: the
// largest score is then the largest logit.
inline void load_bf16_queries(const TilePart& sub) {
  const AttentionCall& call = *sub.call;
  const TileScratch& scratch = sub.scratch;
  const int dim = tile_dim(call.spec->head_dim);
  auto* const row_pairs =
      reinterpret_cast<std::uint32_t*>(scratch.k);  // free until a block is loaded
  std::fill(row_pairs + sub.num_rows * dim / 2, row_pairs + kSubTileRows * dim / 2, 0U);
  for (int r = 0; r < sub.num_rows; ++r) {
    std::uint32_t* const pairs = row_pairs + r * dim / 2;
    load_bf16_row(query_row(call, scratch.rows[r]), call.q.dtype, call.spec->head_dim, dim,
                  reinterpret_cast<std::uint16_t*>(pairs));
    float& scale = scratch.logit_scale[r];
    if (scale < 0) {
      for (int i = 0; i < dim / 2; ++i) pairs[i] ^= 0x80008000U;
      scale = -scale;
    }
  }
  transpose(reinterpret_cast<const float*>(row_pairs), dim / 2, kSubTileRows, dim / 2, scratch.q,
            kSubTileRows);
}

constexpr float kLog2E = 1.44269504F;
constexpr float kLn2 = 0.693147181F;

// Whether scores go into the softmax as they are, with their scale applied there. Masked scores are
// -inf: they must not be multiplied by 0.
inline bool raw_scores(const AttentionCall& call) {
  return call.spec->variant.softmax && !call.variant->logits.defined() &&
         !call.q_scale.tensor.defined() && !call.k_scale.tensor.defined() &&
         std::isnormal(call.sm_scale * call.q_scale.value * call.k_scale.value);
}

inline void set_base2_scales(const TilePart& sub) {
  const TileScratch& scratch = sub.scratch;
  const bool raw = raw_scores(*sub.call);
  for (int r = 0; r < kSubTileRows; ++r) {
    const bool scaled = raw && r < sub.num_rows;
    scratch.base2_scale[r] = scaled ? scratch.logit_scale[r] * kLog2E : kLog2E;
  }
}

inline void scale_scores(const TilePart& sub, const Block& block) {
  const int lanes = static_cast<int>(hn::Lanes(kTag));
  for (int key = block.first; key < block.last; ++key) {
    float* const s = sub.scratch.s + key * kSubTileRows;
    for (int r = 0; r < kSubTileRows; r += lanes) {
      hn::Store(hn::Mul(hn::Load(kTag, s + r), hn::Load(kTag, sub.scratch.logit_scale + r)), kTag,
                s + r);
    }
  }
}

inline void rescale_outputs(const TilePart& sub, int group, int dim, const float* factor) {
  const int lanes = static_cast<int>(hn::Lanes(kTag));
  for (int r = group * kRowGroup; r < (group + 1) * kRowGroup; r += lanes) {
    const Vec by = hn::Load(kTag, factor + r);
    for (int d = 0; d < dim; ++d) {
      float* const o = sub.scratch.o + d * kSubTileRows + r;
      hn::Store(hn::Mul(hn::Load(kTag, o), by), kTag, o);
    }
  }
}

inline float bf16_value(std::uint32_t bits) {
  bits <<= 16;
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

inline std::uint32_t* weights_of(const TilePart& sub, int index) {
  return sub.scratch.p + index * kSubTileRows * kBlockTokens / 2;
}

// Outputs are not cleared before their first product, but where there is none.
inline void clear_missing_sums(const TilePart& sub) {
  if (*sub.scratch.has_sums) return;
  std::fill_n(sub.scratch.o, kSubTileRows * tile_dim(sub.call->spec->value_dim()), 0.0F);
  *sub.scratch.has_sums = true;
}

// Adds the keys that were set aside, to the rows that attend to them.
inline void add_wild_bf16_keys(const TilePart& sub, const Bf16Block& block, int index) {
  const AttentionCall& call = *sub.call;
  for (int key = 0; key < block.keys; ++key) {
    if ((block.wild >> key & 1U) == 0) continue;
    float* const values = sub.scratch.v;
    load_row(block.wild_values[key], call.kv[sub.row->level].v.dtype, call.spec->value_dim(),
             values);
    for (int r = 0; r < sub.num_rows; ++r) {
      const std::uint32_t pair = weights_of(sub, index)[key / 2 * kSubTileRows + r];
      const float weight = bf16_value(key % 2 == 0 ? pair & 0xFFFFU : pair >> 16);
      if (weight == 0.0F) continue;
      for (int d = 0; d < call.spec->value_dim(); ++d) {
        sub.scratch.o[d * kSubTileRows + r] += weight * values[d];
      }
    }
  }
}

inline int row_groups(const TilePart& sub) {
  return (sub.num_rows + kRowGroup - 1) / kRowGroup;
}

inline void add_bf16_values(const TilePart& sub, const Bf16Kernels& kernels,
                            const Bf16Block* blocks, int begin, int end) {
  if (begin == end) return;
  kernels.multiply(value_columns_of(sub, blocks[begin].place),
                   tile_dim(sub.call->spec->value_dim()), kBlockTokens / 2, weights_of(sub, begin),
                   row_groups(sub), end - begin, *sub.scratch.has_sums, sub.scratch.o);
  *sub.scratch.has_sums = true;
}

// Scores of a block, packed at `place`, become weights; returns which row groups' sums need their
// factor.
inline std::uint32_t bf16_weights(const TilePart& sub, const Bf16Kernels& kernels,
                                  const Block& block, int place, int index, float* factor) {
  const TileScratch& scratch = sub.scratch;
  const int dim = tile_dim(sub.call->spec->head_dim);
  const int first = block.first / 32 * 32;
  kernels.multiply(keys_of(sub, place) + first * dim, (block.last - first + 31) / 32 * 32, dim / 2,
                   reinterpret_cast<const std::uint32_t*>(scratch.q), row_groups(sub), 1, false,
                   scratch.s + first * kSubTileRows);
  if (!raw_scores(*sub.call)) scale_scores(sub, block);
  if (sub.call->variant->logits.defined()) wide_variant(sub, block);
  if (block.mixed) wide_mask(sub, block);
  std::uint32_t moved = 0;
  for (int group = 0; group < row_groups(sub); ++group) {
    const int r = group * kRowGroup;
    if (!sub.call->spec->variant.softmax) {
      kernels.plain_weights(scratch.s + r, block.first, block.last, scratch.m + r,
                            weights_of(sub, index) + r);
      continue;
    }
    if (kernels.softmax(scratch.s + r, block.first, block.last, scratch.base2_scale + r,
                        scratch.m + r, scratch.l + r, factor + r, weights_of(sub, index) + r)) {
      moved |= 1U << group;
    }
  }
  return moved;
}

// The products with the values wait until all blocks that were loaded together have weights, or a
// row's sums need a factor.
inline void bf16_blocks(const TilePart& sub, const Bf16Kernels& kernels, const Bf16Block* blocks,
                        int count) {
  HWY_ALIGN float factor[kSubTileRows];
  int waiting = 0;
  for (int i = 0; i < count; ++i) {
    Block block = blocks[i];
    if (block.mixed && !find_row_keys(sub, block)) {
      add_bf16_values(sub, kernels, blocks, waiting, i);
      waiting = i + 1;
      continue;
    }
    const std::uint32_t moved = bf16_weights(sub, kernels, block, blocks[i].place, i, factor);
    if (moved != 0) {
      add_bf16_values(sub, kernels, blocks, waiting, i);
      waiting = i;
      for (int group = 0; group < row_groups(sub) && *sub.scratch.has_sums; ++group) {
        if ((moved >> group & 1U) != 0) {
          rescale_outputs(sub, group, tile_dim(sub.call->spec->value_dim()), factor);
        }
      }
    }
    if (blocks[i].wild != 0) {
      add_bf16_values(sub, kernels, blocks, waiting, i + 1);
      waiting = i + 1;
      add_wild_bf16_keys(sub, blocks[i], i);
    }
  }
  add_bf16_values(sub, kernels, blocks, waiting, count);
}

}  // namespace tilewright::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
