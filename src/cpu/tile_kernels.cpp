// SPDX-License-Identifier: Apache-2.0
// The arithmetic of one part of a tile: scores, variant, mask, online softmax (arXiv 2205.14135),
// weighted values.
//
// Two shapes of one algorithm. A wide tile keeps its query rows in the SIMD lanes: keys and values
// are broadcast element by element, and maximum, sum and mask are plain lane-wise operations. A
// narrow one (decode) has too few rows for that and keeps the head dimension, or the keys, in the
// lanes.
#include <algorithm>
#include <limits>
#include <type_traits>

#include "cpu/tile.h"

// foreach_target.h comes first: it includes this file once for each SIMD target.
// clang-format off
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/tile_kernels.cpp"
#define HWY_DISABLED_TARGETS (HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)
#include <hwy/foreach_target.h>
#include <hwy/highway.h>
#include <hwy/contrib/math/math-inl.h>
#include "base/simd_io-inl.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace tilewright::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;
namespace io = tilewright::HWY_NAMESPACE;
using Tag = hn::CappedTag<float, 16>;
using Vec = hn::Vec<Tag>;
using IntTag = hn::RebindToSigned<Tag>;

constexpr Tag kTag;
constexpr float kNegInf = -std::numeric_limits<float>::infinity();
// Accumulators of a register block; AVX-512 has 32 registers, the others 16.
constexpr int kBlockVecs = HWY_TARGET <= HWY_AVX3 ? 4 : 2;
constexpr int kBlockKeys = 4;

// Elements [0, n) of a row as f32; those up to padded_dim(n) become 0.
void load_row(const std::byte* source, DType dtype, int n, float* out) {
  const int lanes = static_cast<int>(hn::Lanes(kTag));
  visit_float(dtype, [&](auto element) {
    const auto* from = reinterpret_cast<const decltype(element)*>(source);
    int i = 0;
    for (; i + lanes <= n; i += lanes) hn::Store(io::load(kTag, from + i), kTag, out + i);
    if (i < n) {
      hn::Store(io::load_first(kTag, from + i, static_cast<std::size_t>(n - i)), kTag, out + i);
      i += lanes;
    }
    std::fill(out + i, out + std::max(i, padded_dim(n)), 0.0F);
  });
}

// exp(x) for x <= 0; NaN stays NaN.
HWY_INLINE Vec exp_of(Vec x) {
  return hn::IfThenElse(hn::IsNaN(x), x, hn::Exp(kTag, x));
}

float exp_of(float x) {
  return hn::GetLane(exp_of(hn::Set(kTag, x)));
}

// What is subtracted from logits before exp: the maximum, or 0 while no key was seen, so that exp
// gives 0 there.
HWY_INLINE Vec shift_of(Vec m) {
  return hn::IfThenElse(hn::Eq(m, hn::Set(kTag, kNegInf)), hn::Zero(kTag), m);
}

// One block of keys, loaded and ready.
struct Block {
  std::int64_t key_begin = 0;
  int keys = 0;
  bool mixed = false;
  std::uint64_t wild = 0;  // of a mixed block: keys whose values are not all finite
  const float* const* k = nullptr;
  const float* const* v = nullptr;
};

bool all_finite(const float* values, int padded) {
  auto bad = hn::Zero(kTag);
  for (int i = 0; i < padded; i += static_cast<int>(hn::Lanes(kTag))) {
    const Vec x = hn::Load(kTag, values + i);
    bad = hn::Or(bad, hn::Sub(x, x));  // NaN for NaN and infinities, else +0
  }
  return hn::AllTrue(kTag, hn::Eq(bad, hn::Zero(kTag)));
}

// Makes `rows` (pointers to raw elements) point to f32 rows: where they lie, or converted.
void load_rows(const std::byte** rows, int count, DType dtype, int dim, bool in_place,
               float* converted) {
  if (in_place && dtype == DType::f32 && dim % 16 == 0) return;
  for (int i = 0; i < count; ++i) {
    float* row = converted + i * padded_dim(dim);
    load_row(rows[i], dtype, dim, row);
    rows[i] = reinterpret_cast<const std::byte*>(row);
  }
}

Block load_block(const TilePart& part, std::int32_t index) {
  const AttentionCall& call = *part.call;
  const TileScratch& scratch = part.scratch;
  Block block;
  block.key_begin = static_cast<std::int64_t>(index) * kBlockTokens;
  block.keys =
      static_cast<int>(std::min<std::int64_t>(kBlockTokens, part.row->kv_len - block.key_begin));
  block.mixed = !part.ranges->is_full(block.key_begin, block.key_begin + block.keys);
  locate_keys(call, *part.row, part.head, block.key_begin, block.keys, scratch.k_rows,
              scratch.v_rows);
  const KvCache& kv = call.kv[part.row->level];
  load_rows(scratch.k_rows, block.keys, kv.k.dtype, call.spec->head_dim, true, scratch.k);
  load_rows(scratch.v_rows, block.keys, kv.v.dtype, call.spec->value_dim(), !block.mixed,
            scratch.v);
  if (block.mixed) {
    // 0 * NaN is NaN: values that are not finite must not meet the weight 0 of a masked key. They
    // are set aside.
    for (int key = 0; key < block.keys; ++key) {
      if (!all_finite(reinterpret_cast<const float*>(scratch.v_rows[key]),
                      padded_dim(call.spec->value_dim()))) {
        block.wild |= std::uint64_t{1} << key;
      }
    }
  }
  // Register blocks run over the end by less than kBlockKeys keys; their results are not used.
  for (int key = block.keys; key % kBlockKeys != 0; ++key) scratch.k_rows[key] = scratch.k_rows[0];
  block.k = reinterpret_cast<const float* const*>(scratch.k_rows);
  block.v = reinterpret_cast<const float* const*>(scratch.v_rows);
  if (call.variant->logits.defined() || call.variant->mask_program.defined()) {
    for (int key = 0; key < block.keys; ++key) {
      scratch.kv_pos[key] =
          static_cast<std::int32_t>(call.plan->position_of_key(*part.row, block.key_begin + key));
    }
  }
  return block;
}

// The keys of a block that a row attends to, in scratch.allowed. Only for mixed blocks.
void find_allowed(const TilePart& part, const Block& block, const TileRow& row) {
  const TileScratch& scratch = part.scratch;
  if (!row.exact_keys) {
    part.call->variant->mask_program.eval_mask(row.context, part.call->bindings, scratch.kv_pos,
                                               scratch.allowed, block.keys, scratch.program);
    return;
  }
  std::fill_n(scratch.allowed, block.keys, std::uint8_t{0});
  for (int i = 0; i < row.keys.count; ++i) {
    const std::int64_t begin =
        std::max(row.keys.intervals[i].begin - block.key_begin, std::int64_t{0});
    const std::int64_t end =
        std::min<std::int64_t>(row.keys.intervals[i].end - block.key_begin, block.keys);
    if (begin < end) std::fill(scratch.allowed + begin, scratch.allowed + end, std::uint8_t{1});
  }
}

// ---- wide tiles: rows in the lanes

constexpr int kLanesOfTile = kTileRows;

template <int kVecs>
void wide_scores_of(const TileScratch& scratch, const Block& block, int dim, int first_row) {
  const int lanes = static_cast<int>(hn::Lanes(kTag));
  for (int key = 0; key < block.keys; key += kBlockKeys) {
    Vec sum[kBlockKeys][kVecs];
    for (auto& of_key : sum) {
      for (Vec& x : of_key) x = hn::Zero(kTag);
    }
    const float* q = scratch.q + first_row;
    for (int d = 0; d < dim; ++d, q += kLanesOfTile) {
      Vec q_d[kVecs];
      for (int i = 0; i < kVecs; ++i) q_d[i] = hn::Load(kTag, q + i * lanes);
      for (int j = 0; j < kBlockKeys; ++j) {
        const Vec k_d = hn::Set(kTag, block.k[key + j][d]);
        for (int i = 0; i < kVecs; ++i) sum[j][i] = hn::MulAdd(q_d[i], k_d, sum[j][i]);
      }
    }
    for (int j = 0; j < kBlockKeys; ++j) {
      for (int i = 0; i < kVecs; ++i) {
        const Vec scale = hn::Load(kTag, scratch.logit_scale + first_row + i * lanes);
        hn::Store(hn::Mul(sum[j][i], scale), kTag,
                  scratch.s + (key + j) * kLanesOfTile + first_row + i * lanes);
      }
    }
  }
}

void wide_variant(const TilePart& part, const Block& block) {
  const TileScratch& scratch = part.scratch;
  for (int r = 0; r < part.num_rows; ++r) {
    for (int key = 0; key < block.keys; ++key)
      scratch.line[key] = scratch.s[key * kLanesOfTile + r];
    part.call->variant->logits.eval_logits(scratch.rows[r].context, part.call->bindings,
                                           scratch.kv_pos, scratch.line, scratch.line, block.keys,
                                           scratch.program);
    for (int key = 0; key < block.keys; ++key)
      scratch.s[key * kLanesOfTile + r] = scratch.line[key];
  }
}

// Rows with one interval of keys are masked all together, the others each by itself.
void wide_mask(const TilePart& part, const Block& block) {
  const TileScratch& scratch = part.scratch;
  for (int r = 0; r < kTileRows; ++r) {
    scratch.key_begin[r] = 0;
    scratch.key_end[r] = 0;
    if (r >= part.num_rows) continue;
    const TileRow& row = scratch.rows[r];
    if (row.exact_keys && row.keys.count <= 1) {
      if (row.keys.count == 0) continue;
      const auto within = [&](std::int64_t key) {
        return static_cast<std::int32_t>(
            std::clamp<std::int64_t>(key - block.key_begin, 0, block.keys));
      };
      scratch.key_begin[r] = within(row.keys.intervals[0].begin);
      scratch.key_end[r] = within(row.keys.intervals[0].end);
      continue;
    }
    scratch.key_end[r] = block.keys;
    find_allowed(part, block, row);
    for (int key = 0; key < block.keys; ++key) {
      if (scratch.allowed[key] == 0) scratch.s[key * kLanesOfTile + r] = kNegInf;
    }
  }
  const IntTag ints;
  const int lanes = static_cast<int>(hn::Lanes(kTag));
  for (int r = 0; r < part.num_rows; r += lanes) {
    const auto begin = hn::Load(ints, scratch.key_begin + r);
    const auto end = hn::Load(ints, scratch.key_end + r);
    for (int key = 0; key < block.keys; ++key) {
      const auto at = hn::Set(ints, key);
      const auto inside = hn::And(hn::Not(hn::Lt(at, begin)), hn::Lt(at, end));
      float* s = scratch.s + key * kLanesOfTile + r;
      hn::Store(
          hn::IfThenElse(hn::RebindMask(kTag, inside), hn::Load(kTag, s), hn::Set(kTag, kNegInf)),
          kTag, s);
    }
  }
}

// Scores become weights; m and l advance; `line` keeps the factor for what was summed before.
void wide_softmax(const TilePart& part, const Block& block, float* factor) {
  const TileScratch& scratch = part.scratch;
  const int lanes = static_cast<int>(hn::Lanes(kTag));
  for (int r = 0; r < part.num_rows; r += lanes) {
    const Vec before = hn::Load(kTag, scratch.m + r);
    Vec m = before;
    for (int key = 0; key < block.keys; ++key) {
      m = hn::Max(m, hn::Load(kTag, scratch.s + key * kLanesOfTile + r));
    }
    const Vec shift = shift_of(m);
    Vec sum = hn::Zero(kTag);
    for (int key = 0; key < block.keys; ++key) {
      float* s = scratch.s + key * kLanesOfTile + r;
      const Vec weight = exp_of(hn::Sub(hn::Load(kTag, s), shift));
      hn::Store(weight, kTag, s);
      sum = hn::Add(sum, weight);
    }
    const Vec rescale = exp_of(hn::Sub(before, shift));
    hn::Store(m, kTag, scratch.m + r);
    hn::Store(hn::MulAdd(hn::Load(kTag, scratch.l + r), rescale, sum), kTag, scratch.l + r);
    hn::Store(rescale, kTag, factor + r);
  }
}

template <int kVecs>
void wide_values_of(const TileScratch& scratch, const Block& block, int dim, int first_row,
                    const float* factor) {
  constexpr int kDims = 4;  // divides every head_dim
  const int lanes = static_cast<int>(hn::Lanes(kTag));
  Vec rescale[kVecs];
  for (int i = 0; i < kVecs; ++i) rescale[i] = hn::Load(kTag, factor + first_row + i * lanes);
  for (int d = 0; d < dim; d += kDims) {
    Vec sum[kDims][kVecs];
    float* o = scratch.o + d * kLanesOfTile + first_row;
    for (int j = 0; j < kDims; ++j) {
      for (int i = 0; i < kVecs; ++i) {
        sum[j][i] = hn::Mul(hn::Load(kTag, o + j * kLanesOfTile + i * lanes), rescale[i]);
      }
    }
    for (int key = 0; key < block.keys; ++key) {
      const float* v = block.v[key] + d;
      for (int i = 0; i < kVecs; ++i) {
        const Vec weight = hn::Load(kTag, scratch.s + key * kLanesOfTile + first_row + i * lanes);
        for (int j = 0; j < kDims; ++j) {
          sum[j][i] = hn::MulAdd(weight, hn::Set(kTag, v[j]), sum[j][i]);
        }
      }
    }
    for (int j = 0; j < kDims; ++j) {
      for (int i = 0; i < kVecs; ++i) {
        hn::Store(sum[j][i], kTag, o + j * kLanesOfTile + i * lanes);
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
  for (; done + kBlockVecs <= vectors; done += kBlockVecs) {
    kernel(done * lanes, std::integral_constant<int, kBlockVecs>());
  }
  switch (vectors - done) {
    case 3:
      kernel(done * lanes, std::integral_constant<int, 3>());
      break;
    case 2:
      kernel(done * lanes, std::integral_constant<int, 2>());
      break;
    case 1:
      kernel(done * lanes, std::integral_constant<int, 1>());
      break;
    default:
      break;
  }
}

void wide_block(const TilePart& part, const Block& block) {
  const TileScratch& scratch = part.scratch;
  over_rows(part.num_rows, [&](int first_row, auto vectors) {
    wide_scores_of<vectors>(scratch, block, part.call->spec->head_dim, first_row);
  });
  if (part.call->variant->logits.defined()) wide_variant(part, block);
  if (block.mixed) wide_mask(part, block);
  HWY_ALIGN float factor[kTileRows];
  wide_softmax(part, block, factor);
  over_rows(part.num_rows, [&](int first_row, auto vectors) {
    wide_values_of<vectors>(scratch, block, part.call->spec->value_dim(), first_row, factor);
  });
}

// ---- narrow tiles: the head dimension in the lanes of scores, keys in those of softmax

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

// ---- both

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

Partial ComputePart(const TilePart& part) {
  const TileScratch& scratch = part.scratch;
  const int dim = part.call->spec->value_dim();
  const bool wide = part.num_rows > kNarrowRows;
  load_queries(part, wide);
  std::fill_n(scratch.o, kTileRows * padded_dim(dim), 0.0F);
  std::fill_n(scratch.m, kTileRows, kNegInf);
  std::fill_n(scratch.l, kTileRows, 0.0F);
  std::fill(scratch.logit_scale + part.num_rows, scratch.logit_scale + kTileRows, 0.0F);
  for (std::int32_t n = part.block_begin; n < part.block_end; ++n) {
    const Block block = load_block(part, part.ranges->nth(n));
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

void MergePartial(const Partial& into, const Partial& from, int rows, int value_dim) {
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

void StoreOutput(const float* o, float factor, int n, void* out, DType dtype) {
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

HWY_EXPORT(ComputePart);
HWY_EXPORT(MergePartial);
HWY_EXPORT(StoreOutput);

Partial compute_part(const TilePart& part) {
  return HWY_DYNAMIC_DISPATCH(ComputePart)(part);
}

void merge_partial(const Partial& into, const Partial& from, int rows, int value_dim) {
  HWY_DYNAMIC_DISPATCH(MergePartial)(into, from, rows, value_dim);
}

void store_output(const float* o, float factor, int n, void* out, DType dtype) {
  HWY_DYNAMIC_DISPATCH(StoreOutput)(o, factor, n, out, dtype);
}

}  // namespace tilewright::cpu
#endif
