// SPDX-License-Identifier: Apache-2.0
// The arithmetic of one part of a tile: scores, variant, mask, online softmax (arXiv 2205.14135),
// weighted values. Wide and narrow tiles are two shapes of this one algorithm.
#include <algorithm>
#include <array>
#include <limits>

#include "cpu/tile.h"

// foreach_target.h comes first: it includes this file once for each SIMD target.
// clang-format off
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/tile_kernels.cpp"
#define HWY_DISABLED_TARGETS (HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)
#include <hwy/foreach_target.h>
#include <hwy/highway.h>
#include "cpu/tile_bf16-inl.h"
#include "cpu/tile_narrow-inl.h"
#include "cpu/tile_wide-inl.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace tilewright::cpu::HWY_NAMESPACE {

// Adds the keys that were set aside, to the rows that attend to them.
void add_wild_keys(const TilePart& part, const Block& block, const float* const* values,
                   bool wide) {
  const TileScratch& scratch = part.scratch;
  const int dim = part.call->spec->value_dim();
  const int row_step = wide ? 1 : padded_dim(dim);
  const int dim_step = wide ? kSubTileRows : 1;
  for (int key = 0; key < block.keys; ++key) {
    if ((block.wild >> key & 1U) == 0) continue;
    for (int r = 0; r < part.num_rows; ++r) {
      const float weight =
          wide ? scratch.s[key * kSubTileRows + r] : scratch.s[r * kBlockTokens + key];
      if (weight == 0.0F) continue;
      for (int d = 0; d < dim; ++d) {
        scratch.o[r * row_step + d * dim_step] += weight * values[key][d];
      }
    }
  }
}

// Rows [first, first + rows) of a tile.
TilePart sub_tile(const TilePart& part, int first, int rows) {
  TilePart sub = part;
  sub.num_rows = std::min(rows, part.num_rows - first);
  TileScratch& scratch = sub.scratch;
  scratch.q += first * tile_dim(part.call->spec->head_dim);
  scratch.o += first * tile_dim(part.call->spec->value_dim());
  scratch.result += first * part.call->spec->value_dim();
  scratch.m += first;
  scratch.l += first;
  scratch.logit_scale += first;
  scratch.base2_scale += first;
  scratch.key_begin += first;
  scratch.key_end += first;
  scratch.rows += first;
  return sub;
}

class SubTiles {
 public:
  SubTiles(const TilePart& part, int rows) : rows_(rows) {
    for (int first = 0; first < part.num_rows; first += rows) {
      subs_[count_++] = sub_tile(part, first, rows);
    }
  }
  TilePart* begin() { return subs_.data(); }
  TilePart* end() { return subs_.data() + count_; }
  const TilePart* begin() const { return subs_.data(); }
  const TilePart* end() const { return subs_.data() + count_; }
  int rows() const { return rows_; }

 private:
  int rows_;
  std::array<TilePart, kTileRows / kBf16Rows> subs_;
  int count_ = 0;
};

void clear_sums(const TilePart& part) {
  const TileScratch& scratch = part.scratch;
  const int rows = (part.num_rows + kSubTileRows - 1) / kSubTileRows * kSubTileRows;
  std::fill_n(scratch.o, rows * tile_dim(part.call->spec->value_dim()), 0.0F);
  std::fill_n(scratch.m, rows, kNegInf);
  std::fill_n(scratch.l, rows, 0.0F);
  std::fill(scratch.logit_scale + part.num_rows, scratch.logit_scale + rows, 0.0F);
}

// Outputs of wide tiles, from [dim][row] to [row][dim].
Partial wide_result(const TilePart& part, const SubTiles& subs) {
  const int dim = part.call->spec->value_dim();
  for (const TilePart& sub : subs) {
    transpose(sub.scratch.o, subs.rows(), dim, sub.num_rows, sub.scratch.result, dim);
  }
  return {part.scratch.result, part.scratch.m, part.scratch.l};
}

void load_narrow_queries(const TilePart& part) {
  const int dim = part.call->spec->head_dim;
  for (int r = 0; r < part.num_rows; ++r) {
    load_row(query_row(*part.call, part.scratch.rows[r]), part.call->q.dtype, dim,
             part.scratch.q + r * padded_dim(dim));
    rotate_row(*part.call, part.scratch, part.scratch.rows[r].context.q_pos,
               part.scratch.q + r * padded_dim(dim));
  }
}

void load_wide_queries(const TilePart& sub) {
  const int dim = sub.call->spec->head_dim;
  const int padded = padded_dim(dim);
  float* const rows = sub.scratch.k;  // free until the first block is loaded
  std::fill_n(rows, kSubTileRows * padded, 0.0F);
  for (int r = 0; r < sub.num_rows; ++r) {
    load_row(query_row(*sub.call, sub.scratch.rows[r]), sub.call->q.dtype, dim, rows + r * padded);
    rotate_row(*sub.call, sub.scratch, sub.scratch.rows[r].context.q_pos, rows + r * padded);
  }
  transpose(rows, padded, kSubTileRows, dim, sub.scratch.q, kSubTileRows);
}

// Loads block `n`; the values that are not finite are set aside in `wild_values`.
Block load_f32_block(const TilePart& part, std::int32_t n, const float** wild_values) {
  const TileScratch& scratch = part.scratch;
  Block block = find_block(part, n);
  load_block(part, block);
  for (int key = 0; block.wild >> key != 0; ++key) {
    if ((block.wild >> key & 1U) == 0) continue;
    wild_values[key] = block.v[key];
    scratch.v_rows[key] = reinterpret_cast<const std::byte*>(scratch.zeros);
    if (key == kBlockTokens - 1) break;
  }
  return block;
}

Partial compute_narrow(const TilePart& part) {
  const TileScratch& scratch = part.scratch;
  const int dim = part.call->spec->value_dim();
  load_narrow_queries(part);
  for (std::int32_t n = part.block_begin; n < part.block_end; ++n) {
    const float* wild_values[kBlockTokens];
    const Block block = load_f32_block(part, n, wild_values);
    narrow_block(part, block);
    if (block.wild != 0) add_wild_keys(part, block, wild_values, false);
  }
  if (padded_dim(dim) != dim) {
    for (int r = 1; r < part.num_rows; ++r) {
      std::copy_n(scratch.o + r * padded_dim(dim), dim, scratch.o + r * dim);
    }
  }
  return {scratch.o, scratch.m, scratch.l};
}

Partial compute_wide(const TilePart& part) {
  const SubTiles subs(part, kSubTileRows);
  for (const TilePart& sub : subs) load_wide_queries(sub);
  for (std::int32_t n = part.block_begin; n < part.block_end; ++n) {
    const float* wild_values[kBlockTokens];
    const Block block = load_f32_block(part, n, wild_values);
    for (const TilePart& sub : subs) {
      wide_block(sub, block);
      if (block.wild != 0) add_wild_keys(sub, block, wild_values, true);
    }
  }
  return wide_result(part, subs);
}

Partial compute_bf16(const TilePart& part, const Bf16Kernels& kernels) {
  SubTiles subs(part, kBf16Rows);
  for (TilePart& sub : subs) {
    load_bf16_queries(sub);
    sub.raw_scores = set_base2_scales(sub);
  }
  kernels.begin();
  Bf16Block blocks[kBf16Blocks];
  for (std::int32_t n = part.block_begin; n < part.block_end;) {
    const int count = load_bf16_blocks(part, kernels, n, blocks);
    for (const TilePart& sub : subs) bf16_blocks(sub, kernels, blocks, count);
    n += count;
  }
  kernels.end();
  for (int r = 0; r < part.num_rows; ++r) part.scratch.m[r] *= kLn2;
  return wide_result(part, subs);
}

Partial compute_part_simd(const TilePart& part) {
  clear_sums(part);
  if (part.bf16 != nullptr) return compute_bf16(part, *part.bf16);
  // Wide tiles give a row the same bits whatever other rows there are; so do those of bf16.
  if (part.num_rows <= kNarrowRows && !part.call->plan->batch_invariant) {
    return compute_narrow(part);
  }
  return compute_wide(part);
}

void merge_partial_simd(const Partial& into, const Partial& from, int rows, int value_dim) {
  for (int r = 0; r < rows; ++r) {
    const float m = std::max(into.m[r], from.m[r]);
    const float shift = m == kNegInf ? 0.0F : m;
    const float scale_into = exp_of(into.m[r] - shift);
    const float scale_from = exp_of(from.m[r] - shift);
    into.m[r] = m;
    into.l[r] = into.l[r] * scale_into + from.l[r] * scale_from;
    float* o = into.o + static_cast<std::int64_t>(r) * value_dim;
    const float* o_from = from.o + static_cast<std::int64_t>(r) * value_dim;
    for (int d = 0; d < value_dim; ++d) o[d] = o[d] * scale_into + o_from[d] * scale_from;
  }
}

void store_output_simd(const float* o, float factor, int n, void* out, DType dtype) {
  const int lanes = static_cast<int>(hn::Lanes(kTag));
  const Vec scale = hn::Set(kTag, factor);
  visit_float(dtype, [&](auto element) {
    auto* to = reinterpret_cast<decltype(element)*>(out);
    int i = 0;
    for (; i + lanes <= n; i += lanes)
      io::store(kTag, hn::Mul(hn::LoadU(kTag, o + i), scale), to + i);
    if (i < n) {
      const auto rest = static_cast<std::size_t>(n - i);
      io::store_first(kTag, hn::Mul(io::load_first(kTag, o + i, rest), scale), to + i, rest);
    }
  });
}

}  // namespace tilewright::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tilewright::cpu {

HWY_EXPORT(compute_part_simd);
HWY_EXPORT(merge_partial_simd);
HWY_EXPORT(store_output_simd);

Partial compute_part(const TilePart& part) {
  TilePart ready = part;
  if (fits_bf16(*part.call->spec)) ready.bf16 = bf16_kernels();
  return HWY_DYNAMIC_DISPATCH(compute_part_simd)(ready);
}

void merge_partial(const Partial& into, const Partial& from, int rows, int value_dim) {
  HWY_DYNAMIC_DISPATCH(merge_partial_simd)(into, from, rows, value_dim);
}

void store_output(const float* o, float factor, int n, void* out, DType dtype) {
  HWY_DYNAMIC_DISPATCH(store_output_simd)(o, factor, n, out, dtype);
}

}  // namespace tilewright::cpu
#endif
