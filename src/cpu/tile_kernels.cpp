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
  for (int key = block.first; key < block.last; ++key) {
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

// Rows [first, first + kSubTileRows) of a tile.
TilePart sub_tile(const TilePart& part, int first) {
  TilePart sub = part;
  sub.num_rows = std::min(kSubTileRows, part.num_rows - first);
  sub.scratch = part.scratch.from_row(first, *part.call->spec);
  return sub;
}

class SubTiles {
 public:
  explicit SubTiles(const TilePart& part) {
    for (int first = 0; first < part.num_rows; first += kSubTileRows) {
      subs_[count_++] = sub_tile(part, first);
    }
  }
  const TilePart* begin() const { return subs_.data(); }
  const TilePart* end() const { return subs_.data() + count_; }

 private:
  std::array<TilePart, kTileRows / kSubTileRows> subs_;
  int count_ = 0;
};

enum class Shape { narrow, wide, bf16 };

// With fewer rows than these, packing keys and values costs more than Bf16Kernels save.
constexpr int kNarrowBf16Rows = 8;
// A wide tile of one vector of rows has no more products for what it loads than a narrow one, and
// idle lanes.
constexpr int kNarrowRows = HWY_TARGET <= HWY_AVX3 ? 16 : 8;
static_assert(kNarrowRows <= kMaxNarrowRows && kNarrowBf16Rows <= kMaxNarrowRows);
static_assert(kNarrowRows >= kAlwaysNarrowRows && kNarrowBf16Rows >= kAlwaysNarrowRows);

// Lanes along the rows (wide, bf16), or along the head dimension.
Shape shape_of(const TilePart& part) {
  const AttentionPlan& plan = *part.call->plan;
  const bool bf16 = plan.bf16 != nullptr;
  // Wide tiles give a row the same bits whatever other rows there are; so do those of bf16.
  const int narrow_rows = plan.batch_invariant ? 0 : bf16 ? kNarrowBf16Rows : kNarrowRows;
  if (part.num_rows <= narrow_rows) return Shape::narrow;
  return bf16 ? Shape::bf16 : Shape::wide;
}

void clear_sums(const TilePart& part) {
  const TileScratch& scratch = part.scratch;
  const int value_dim = part.call->spec->value_dim();
  const Shape shape = shape_of(part);
  int rows = part.num_rows;
  if (shape == Shape::narrow) {
    std::fill_n(scratch.o, rows * padded_dim(value_dim), 0.0F);
  } else {
    rows = (rows + kSubTileRows - 1) / kSubTileRows * kSubTileRows;
    std::fill_n(scratch.has_sums, rows / kSubTileRows, false);
    if (shape == Shape::wide) std::fill_n(scratch.o, rows * tile_dim(value_dim), 0.0F);
    std::fill(scratch.logit_scale + part.num_rows, scratch.logit_scale + rows, 0.0F);
  }
  std::fill_n(scratch.m, rows, kNegInf);
  std::fill_n(scratch.l, rows, 0.0F);
}

// Outputs of wide tiles, from [dim][row] to [row][dim].
Partial wide_result(const TilePart& part, const SubTiles& subs) {
  const int dim = part.call->spec->value_dim();
  for (const TilePart& sub : subs) {
    transpose(sub.scratch.o, kSubTileRows, dim, sub.num_rows, sub.scratch.result, dim);
  }
  return {part.scratch.result, part.scratch.m, part.scratch.l};
}

void load_narrow_queries(const TilePart& part) {
  const AttentionCall& call = *part.call;
  const TileScratch& scratch = part.scratch;
  const int dim = call.spec->head_dim;
  const std::byte* rows[kMaxNarrowRows];
  for (int r = 0; r < part.num_rows; ++r) rows[r] = query_row(call, scratch.rows[r]);
  load_rows(rows, part.num_rows, call.q.dtype, dim, scratch.q);
  for (int r = 0; r < part.num_rows; ++r) {
    rotate_row(call, scratch, scratch.rows[r].context.q_pos, scratch.q + r * padded_dim(dim));
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

// Loads block `n` for narrow and wide tiles; the values that are not finite are set aside in
// `wild_values`.
Block load_block_at(const TilePart& part, std::int32_t n, const Next& next,
                    const float** wild_values) {
  const TileScratch& scratch = part.scratch;
  Block block = find_block(part, n, next);
  // Rows of a cache lie kilobytes apart, in few sets of the L1 cache: sub-tiles share a copy.
  load_block(part, block,
             shape_of(part) == Shape::narrow ? InPlace::widened
             : part.num_rows <= kSubTileRows ? InPlace::f32
                                             : InPlace::no);
  for (int key = 0; block.wild >> key != 0; ++key) {
    if ((block.wild >> key & 1U) == 0) continue;
    wild_values[key] = block.v_row<float>(key);
    scratch.v_rows[key] = reinterpret_cast<const std::byte*>(scratch.zeros);
    if (key == kBlockTokens - 1) break;
  }
  return block;
}

void start(const TilePart& part) {
  clear_sums(part);
  switch (shape_of(part)) {
    case Shape::narrow:
      load_narrow_queries(part);
      break;
    case Shape::wide:
      for (const TilePart& sub : SubTiles(part)) load_wide_queries(sub);
      break;
    case Shape::bf16:
      for (const TilePart& sub : SubTiles(part)) {
        load_bf16_queries(sub);
        set_base2_scales(sub);
      }
      break;
  }
}

// Blocks [begin, end) of those that the tile needs.
void add_blocks(const TilePart& part, std::int32_t begin, std::int32_t end, const Next& next) {
  const Shape shape = shape_of(part);
  if (shape == Shape::bf16) {
    const Bf16Kernels& kernels = *part.call->plan->bf16;
    const SubTiles subs(part);
    Bf16Block blocks[kBf16Blocks];
    while (begin < end) {
      const int count = load_bf16_blocks(part, kernels, begin, end, next, blocks);
      for (const TilePart& sub : subs) bf16_blocks(sub, kernels, blocks, count);
      begin += count;
    }
    return;
  }
  for (std::int32_t n = begin; n < end; ++n) {
    const float* wild_values[kBlockTokens];
    const Block block = load_block_at(part, n, next, wild_values);
    if (shape == Shape::narrow) {
      narrow_block(part, block);
      if (block.wild != 0) add_wild_keys(part, block, wild_values, false);
      continue;
    }
    constexpr int kPrefetched = kBlockTokens / (kTileRows / kSubTileRows);
    int prefetched = 0;
    for (const TilePart& sub : SubTiles(part)) {
      prefetch_next(part, block, prefetched, kPrefetched);
      prefetched += kPrefetched;
      Block of_sub = block;
      if (block.mixed && !find_row_keys(sub, of_sub)) continue;
      wide_block(sub, of_sub);
      if (block.wild != 0) add_wild_keys(sub, of_sub, wild_values, true);
    }
  }
}

Partial result_of(const TilePart& part) {
  const TileScratch& scratch = part.scratch;
  switch (shape_of(part)) {
    case Shape::bf16:
      for (int r = 0; r < part.num_rows; ++r) scratch.m[r] *= kLn2;
      for (const TilePart& sub : SubTiles(part)) clear_missing_sums(sub);
      return wide_result(part, SubTiles(part));
    case Shape::wide:
      return wide_result(part, SubTiles(part));
    default:
      break;
  }
  const int dim = part.call->spec->value_dim();
  if (padded_dim(dim) != dim) {
    for (int r = 1; r < part.num_rows; ++r) {
      std::copy_n(scratch.o + r * padded_dim(dim), dim, scratch.o + r * dim);
    }
  }
  return {scratch.o, scratch.m, scratch.l};
}

// Parts of one row and tile, of several KV heads, go through the blocks together.
void compute_parts_simd(const TilePart* parts, int count, Partial* results) {
  const TilePart& first = parts[0];
  const Bf16Kernels* const bf16 = shape_of(first) == Shape::bf16 ? first.call->plan->bf16 : nullptr;
  if (bf16 != nullptr) bf16->begin();
  for (int i = 0; i < count; ++i) start(parts[i]);
  const std::int32_t step = bf16 != nullptr ? kBf16Blocks : 1;
  for (std::int32_t n = first.block_begin; n < first.block_end; n += step) {
    for (int i = 0; i < count; ++i) {
      const Next next = i + 1 < count ? Next{parts[i + 1].head, 0} : Next{first.head, step};
      add_blocks(parts[i], n, std::min(n + step, first.block_end), next);
    }
  }
  for (int i = 0; i < count; ++i) results[i] = result_of(parts[i]);
  if (bf16 != nullptr) bf16->end();
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

HWY_EXPORT(compute_parts_simd);
HWY_EXPORT(merge_partial_simd);
HWY_EXPORT(store_output_simd);

void compute_parts(const TilePart* parts, int count, Partial* results) {
  HWY_DYNAMIC_DISPATCH(compute_parts_simd)(parts, count, results);
}

void merge_partial(const Partial& into, const Partial& from, int rows, int value_dim) {
  HWY_DYNAMIC_DISPATCH(merge_partial_simd)(into, from, rows, value_dim);
}

void store_output(const float* o, float factor, int n, void* out, DType dtype) {
  HWY_DYNAMIC_DISPATCH(store_output_simd)(o, factor, n, out, dtype);
}

}  // namespace tilewright::cpu
#endif
