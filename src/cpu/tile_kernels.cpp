// SPDX-License-Identifier: Apache-2.0
// The arithmetic of one part of a tile: scores, variant, mask, online softmax (arXiv 2205.14135),
// weighted values. Wide and narrow tiles are two shapes of this one algorithm.
#include <algorithm>
#include <limits>

#include "cpu/tile.h"

// foreach_target.h comes first: it includes this file once for each SIMD target.
// clang-format off
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/tile_kernels.cpp"
#define HWY_DISABLED_TARGETS (HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)
#include <hwy/foreach_target.h>
#include <hwy/highway.h>
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
  const int dim_step = wide ? kLanesOfTile : 1;
  for (int key = 0; key < block.keys; ++key) {
    if ((block.wild >> key & 1U) == 0) continue;
    for (int r = 0; r < part.num_rows; ++r) {
      const float weight =
          wide ? scratch.s[key * kLanesOfTile + r] : scratch.s[r * kBlockTokens + key];
      if (weight == 0.0F) continue;
      for (int d = 0; d < dim; ++d) {
        scratch.o[r * row_step + d * dim_step] += weight * values[key][d];
      }
    }
  }
}

void load_queries(const TilePart& part, bool wide) {
  const AttentionCall& call = *part.call;
  const TileScratch& scratch = part.scratch;
  const int dim = call.spec->head_dim;
  const int padded = padded_dim(dim);
  if (wide) std::fill_n(scratch.q, kTileRows * dim, 0.0F);
  for (int r = 0; r < part.num_rows; ++r) {
    const TileRow& row = scratch.rows[r];
    const auto* source = static_cast<const std::byte*>(call.q.data) +
                         (row.token * call.q.strides[0] + row.context.q_head * call.q.strides[1]) *
                             dtype_bytes(call.q.dtype);
    if (!wide) {
      load_row(source, call.q.dtype, dim, scratch.q + r * padded);
      continue;
    }
    load_row(source, call.q.dtype, dim, scratch.k);  // free until the first block is loaded
    for (int d = 0; d < dim; ++d) scratch.q[d * kLanesOfTile + r] = scratch.k[d];
  }
}

Partial compute_part_simd(const TilePart& part) {
  const TileScratch& scratch = part.scratch;
  const int dim = part.call->spec->value_dim();
  const bool wide = part.call->plan->batch_invariant || part.num_rows > kNarrowRows;
  load_queries(part, wide);
  std::fill_n(scratch.o, kTileRows * padded_dim(dim), 0.0F);
  std::fill_n(scratch.m, kTileRows, kNegInf);
  std::fill_n(scratch.l, kTileRows, 0.0F);
  std::fill(scratch.logit_scale + part.num_rows, scratch.logit_scale + kTileRows, 0.0F);
  for (std::int32_t n = part.block_begin; n < part.block_end; ++n) {
    const Block block = load_block(part, n);
    const float* wild_values[kBlockTokens];
    for (int key = 0; block.wild >> key != 0; ++key) {
      if ((block.wild >> key & 1U) == 0) continue;
      wild_values[key] = block.v[key];
      scratch.v_rows[key] = reinterpret_cast<const std::byte*>(scratch.zeros);
      if (key == kBlockTokens - 1) break;
    }
    wide ? wide_block(part, block) : narrow_block(part, block);
    if (block.wild != 0) add_wild_keys(part, block, wild_values, wide);
  }
  Partial result{scratch.o, scratch.m, scratch.l};
  if (wide) {
    result.o = scratch.v;
    for (int d = 0; d < dim; ++d) {
      for (int r = 0; r < part.num_rows; ++r)
        result.o[r * dim + d] = scratch.o[d * kLanesOfTile + r];
    }
  } else if (padded_dim(dim) != dim) {
    for (int r = 1; r < part.num_rows; ++r) {
      std::copy_n(scratch.o + r * padded_dim(dim), dim, scratch.o + r * dim);
    }
  }
  return result;
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
  return HWY_DYNAMIC_DISPATCH(compute_part_simd)(part);
}

void merge_partial(const Partial& into, const Partial& from, int rows, int value_dim) {
  HWY_DYNAMIC_DISPATCH(merge_partial_simd)(into, from, rows, value_dim);
}

void store_output(const float* o, float factor, int n, void* out, DType dtype) {
  HWY_DYNAMIC_DISPATCH(store_output_simd)(o, factor, n, out, dtype);
}

}  // namespace tilewright::cpu
#endif
