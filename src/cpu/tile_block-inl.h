// SPDX-License-Identifier: Apache-2.0
// One block of keys of a tile: loaded, as f32 or in place, with what the mask says of it.
// Compiled once for each SIMD target: included by tile_kernels.cpp after hwy/foreach_target.h.
#if defined(TILEWRIGHT_CPU_TILE_BLOCK_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TILEWRIGHT_CPU_TILE_BLOCK_INL_H_
#undef TILEWRIGHT_CPU_TILE_BLOCK_INL_H_
#else
#define TILEWRIGHT_CPU_TILE_BLOCK_INL_H_
#endif

#include <hwy/cache_control.h>
#include <hwy/highway.h>

#include <algorithm>
#include <limits>

#include "base/rope-inl.h"
#include "base/simd_io-inl.h"
#include "cpu/tile.h"

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
constexpr int kBlockKeys = 8;

// Elements [0, n) of `count` rows as f32, in rows of padded_dim(n); what is behind the n-th is 0.
inline void load_rows(const std::byte* const* rows, int count, DType dtype, int n, float* out) {
  const int lanes = static_cast<int>(hn::Lanes(kTag));
  const int padded = padded_dim(n);
  visit_float(dtype, [&](auto element) HWY_ATTR {
    for (int row = 0; row < count; ++row) {
      const auto* from = reinterpret_cast<const decltype(element)*>(rows[row]);
      float* const to = out + row * padded;
      int i = 0;
      for (; i + lanes <= n; i += lanes) hn::Store(io::load(kTag, from + i), kTag, to + i);
      if (i < n) {
        hn::Store(io::load_first(kTag, from + i, static_cast<std::size_t>(n - i)), kTag, to + i);
        i += lanes;
      }
      for (; i < padded; ++i) to[i] = 0.0F;
    }
  });
}

inline void load_row(const std::byte* source, DType dtype, int n, float* out) {
  load_rows(&source, 1, dtype, n, out);
}

inline const std::byte* query_row(const AttentionCall& call, const TileRow& row) {
  return static_cast<const std::byte*>(call.q.data) +
         (row.token * call.q.strides[0] + row.context.q_head * call.q.strides[1]) *
             dtype_bytes(call.q.dtype);
}

#if HWY_TARGET <= HWY_AVX3
// 16 rows of `from`, 4 columns of it.
HWY_INLINE void transpose_16x4(const float* from, std::int64_t from_stride, float* to,
                               std::int64_t to_stride) {
  const hn::FixedTag<float, 4> four;
  const hn::FixedTag<float, 8> eight;
  const hn::FixedTag<float, 16> all;
  const hn::RepartitionToWide<decltype(all)> pairs;
  // Of rows i, i + 4, i + 8 and i + 12, each in a block of 128 bits.
  const auto every_fourth = [&](int i) HWY_ATTR {
    const float* const at = from + i * from_stride;
    return hn::Combine(
        all,
        hn::Combine(eight, hn::LoadU(four, at + 12 * from_stride),
                    hn::LoadU(four, at + 8 * from_stride)),
        hn::Combine(eight, hn::LoadU(four, at + 4 * from_stride), hn::LoadU(four, at)));
  };
  const auto a = every_fourth(0);
  const auto b = every_fourth(1);
  const auto c = every_fourth(2);
  const auto d = every_fourth(3);
  const auto ab_low = hn::BitCast(pairs, hn::InterleaveLower(all, a, b));
  const auto ab_high = hn::BitCast(pairs, hn::InterleaveUpper(all, a, b));
  const auto cd_low = hn::BitCast(pairs, hn::InterleaveLower(all, c, d));
  const auto cd_high = hn::BitCast(pairs, hn::InterleaveUpper(all, c, d));
  const auto put = [&](int j, auto column)
                       HWY_ATTR { hn::StoreU(hn::BitCast(all, column), all, to + j * to_stride); };
  put(0, hn::InterleaveLower(pairs, ab_low, cd_low));
  put(1, hn::InterleaveUpper(pairs, ab_low, cd_low));
  put(2, hn::InterleaveLower(pairs, ab_high, cd_high));
  put(3, hn::InterleaveUpper(pairs, ab_high, cd_high));
}
#endif

// to[j][i] = from[i][j] for i < rows and j < columns, in blocks of 4 x 4: both are rounded up to
// multiples of 4.
inline void transpose(const float* from, std::int64_t from_stride, int rows, int columns, float* to,
                      std::int64_t to_stride) {
#if HWY_TARGET == HWY_SCALAR
  for (int i = 0; i < rows; ++i) {
    for (int j = 0; j < columns; ++j) to[j * to_stride + i] = from[i * from_stride + j];
  }
#else
  const hn::FixedTag<float, 4> four;
  const hn::RepartitionToWide<decltype(four)> two;
  int i = 0;
#if HWY_TARGET <= HWY_AVX3
  for (; i + 16 <= rows; i += 16) {
    for (int j = 0; j < columns; j += 4) {
      transpose_16x4(from + i * from_stride + j, from_stride, to + j * to_stride + i, to_stride);
    }
  }
#endif
  for (; i < rows; i += 4) {
    for (int j = 0; j < columns; j += 4) {
      const float* const at = from + i * from_stride + j;
      const auto a = hn::LoadU(four, at);
      const auto b = hn::LoadU(four, at + from_stride);
      const auto c = hn::LoadU(four, at + 2 * from_stride);
      const auto d = hn::LoadU(four, at + 3 * from_stride);
      const auto ab_low = hn::BitCast(two, hn::InterleaveLower(four, a, b));
      const auto ab_high = hn::BitCast(two, hn::InterleaveUpper(four, a, b));
      const auto cd_low = hn::BitCast(two, hn::InterleaveLower(four, c, d));
      const auto cd_high = hn::BitCast(two, hn::InterleaveUpper(four, c, d));
      float* const out = to + j * to_stride + i;
      hn::StoreU(hn::BitCast(four, hn::InterleaveLower(two, ab_low, cd_low)), four, out);
      hn::StoreU(hn::BitCast(four, hn::InterleaveUpper(two, ab_low, cd_low)), four,
                 out + to_stride);
      hn::StoreU(hn::BitCast(four, hn::InterleaveLower(two, ab_high, cd_high)), four,
                 out + 2 * to_stride);
      hn::StoreU(hn::BitCast(four, hn::InterleaveUpper(two, ab_high, cd_high)), four,
                 out + 3 * to_stride);
    }
  }
#endif
}

// exp(x) for x <= 0, within 2e-7; exactly 1 for 0, 0 for less than -88, NaN for NaN.
HWY_INLINE Vec exp_of(Vec x) {
  const hn::RebindToUnsigned<Tag> bits;
  const Vec log2_e = hn::Set(kTag, 1.44269504F);
  // A sum with this is rounded to an integer, whose lowest bits are those of 2^n's exponent.
  const Vec to_integer = hn::Set(kTag, 12582912.0F + 127.0F);
  // At the least x the exponent's bits are 0, and so is 2^n. The order of operands keeps NaN.
  const Vec least = hn::Max(hn::Set(kTag, -88.03F), x);
  const Vec shifted = hn::MulAdd(least, log2_e, to_integer);
  const Vec fraction = hn::MulSub(least, log2_e, hn::Sub(shifted, to_integer));
  const Vec power = hn::BitCast(kTag, hn::ShiftLeft<23>(hn::BitCast(bits, shifted)));
  Vec p = hn::Set(kTag, 1.53458124e-4F);
  for (const float next :
       {1.33999309e-3F, 9.61848907e-3F, 5.55032864e-2F, 0.240226462F, 0.693147182F, 1.0F}) {
    p = hn::MulAdd(p, fraction, hn::Set(kTag, next));
  }
  return hn::Mul(p, power);
}

inline float exp_of(float x) {
  return hn::GetLane(exp_of(hn::Set(kTag, x)));
}

// What is subtracted from logits before exp: the maximum, or 0 while no key was seen, so that exp
// gives 0 there.
HWY_INLINE Vec shift_of(Vec m) {
  return hn::IfThenElse(hn::Eq(m, hn::Set(kTag, kNegInf)), hn::Zero(kTag), m);
}

// Rotates the first elements of a row to its position.
inline void rotate_row(const AttentionCall& call, const TileScratch& scratch, std::int64_t position,
                       float* row) {
  const CompiledVariant& variant = *call.variant;
  const int pairs = variant.rope_dim / 2;
  if (pairs == 0) return;
  io::rope_angles(static_cast<double>(position), variant.rope.values.data(),
                  static_cast<std::size_t>(pairs), scratch.cosines, scratch.sines,
                  variant.rope.amplitude);
  const bool interleaved = call.spec->variant.rope->interleaved;
  float* const first = row;
  float* const second = interleaved ? row + 1 : row + pairs;
  const int step = interleaved ? 2 : 1;
  for (int i = 0; i < pairs; ++i) {
    const float a = first[i * step];
    const float b = second[i * step];
    first[i * step] = a * scratch.cosines[i] - b * scratch.sines[i];
    second[i * step] = b * scratch.cosines[i] + a * scratch.sines[i];
  }
}

// One block of keys, loaded and ready.
struct Block {
  std::int64_t key_begin = 0;
  int keys = 0;
  // Of the keys those that rows of this sub-tile attend to lie in [first, last): first is a
  // multiple of 16, last of 8 unless it is the end.
  int first = 0;
  int last = 0;
  bool mixed = false;
  std::uint64_t wild = 0;  // of a mixed block: keys whose values are not all finite
  const std::int32_t* kv_pos = nullptr;
  const std::byte* const* k = nullptr;  // rows of k_dtype and v_dtype
  const std::byte* const* v = nullptr;
  DType k_dtype = DType::f32;
  DType v_dtype = DType::f32;
  int next_keys = 0;  // of a later block, located but not loaded

  template <typename T>
  const T* k_row(int key) const {
    return reinterpret_cast<const T*>(k[key]);
  }
  template <typename T>
  const T* v_row(int key) const {
    return reinterpret_cast<const T*>(v[key]);
  }
};

// Asks for a row of the next block. Rows of one head lie kilobytes apart, where no hardware
// prefetcher follows.
HWY_INLINE void prefetch_row(const std::byte* row, int bytes) {
  for (int i = 0; i < bytes; i += 64) hwy::Prefetch(row + i);
}

inline bool all_finite(const float* values, int padded) {
  auto bad = hn::Zero(kTag);
  for (int i = 0; i < padded; i += static_cast<int>(hn::Lanes(kTag))) {
    const Vec x = hn::Load(kTag, values + i);
    bad = hn::Or(bad, hn::Sub(x, x));  // NaN for NaN and infinities, else +0
  }
  return hn::AllTrue(kTag, hn::Eq(bad, hn::Zero(kTag)));
}

// How rows may be used where they lie in the cache, instead of in scratch memory.
enum class InPlace { no, f32, widened };

inline bool stays_in_place(InPlace in_place, DType dtype, int dim) {
  if (dim % 16 != 0) return false;
  if (in_place == InPlace::widened && (dtype == DType::bf16 || dtype == DType::f16)) return true;
  return in_place != InPlace::no && dtype == DType::f32;
}

// Makes `rows` point to f32 rows, unless they stay where they are; returns the dtype they have.
inline DType load_or_keep_rows(const std::byte** rows, int count, DType dtype, int dim,
                               InPlace in_place, float* converted) {
  if (stays_in_place(in_place, dtype, dim)) return dtype;
  load_rows(rows, count, dtype, dim, converted);
  for (int i = 0; i < count; ++i) {
    rows[i] = reinterpret_cast<const std::byte*>(converted + i * padded_dim(dim));
  }
  return DType::f32;
}

// What is computed after a block: the same one of another head, or one `ahead` blocks later.
struct Next {
  std::int32_t head = 0;
  std::int32_t ahead = 1;
};

// Block `n` of those that the tile needs: located, not loaded. `next` is located for prefetching.
// `place`: among those that are loaded together.
inline Block find_block(const TilePart& part, std::int32_t n, const Next& next, int place = 0) {
  const AttentionCall& call = *part.call;
  const TileScratch& scratch = part.scratch;
  const auto first_key = [&](std::int32_t i) {
    return static_cast<std::int64_t>(part.ranges->nth(i)) * kBlockTokens;
  };
  const auto keys_from = [&](std::int64_t begin) {
    return static_cast<int>(std::min<std::int64_t>(kBlockTokens, part.row->kv_len - begin));
  };
  Block block;
  block.key_begin = first_key(n);
  block.keys = keys_from(block.key_begin);
  block.last = block.keys;
  block.mixed = !part.ranges->is_full(block.key_begin, block.key_begin + block.keys);
  locate_keys(call, *part.row, part.head, block.key_begin, block.keys, scratch.k_rows,
              scratch.v_rows);
  if (n + next.ahead < part.block_end) {
    const std::int64_t begin = first_key(n + next.ahead);
    block.next_keys = keys_from(begin);
    locate_keys(call, *part.row, next.head, begin, block.next_keys, scratch.next_k_rows,
                scratch.next_v_rows);
  }
  if (call.variant->logits.defined() || call.variant->mask_program.defined()) {
    std::int32_t* const kv_pos = scratch.kv_pos + place * kBlockTokens;
    block.kv_pos = kv_pos;
    for (int key = 0; key < block.keys; ++key) {
      kv_pos[key] =
          static_cast<std::int32_t>(call.plan->position_of_key(*part.row, block.key_begin + key));
    }
  }
  return block;
}

// Loads a block as f32, where it does not stay in place.
inline void load_block(const TilePart& part, Block& block, InPlace in_place) {
  const AttentionCall& call = *part.call;
  const TileScratch& scratch = part.scratch;
  const KvCache& kv = call.kv[part.row->level];
  const bool rotated = call.variant->rope_dim > 0;
  block.k_dtype = load_or_keep_rows(scratch.k_rows, block.keys, kv.k.dtype, call.spec->head_dim,
                                    rotated ? InPlace::no : in_place, scratch.k);
  if (rotated) {
    for (int key = 0; key < block.keys; ++key) {
      rotate_row(call, scratch, call.plan->position_of_key(*part.row, block.key_begin + key),
                 scratch.k + key * padded_dim(call.spec->head_dim));
    }
  }
  block.v_dtype = load_or_keep_rows(scratch.v_rows, block.keys, kv.v.dtype, call.spec->value_dim(),
                                    block.mixed ? InPlace::no : in_place, scratch.v);
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
  block.k = scratch.k_rows;
  block.v = scratch.v_rows;
}

// Asks for rows of what is computed next, while this block is: keys [first, first + count).
inline void prefetch_next(const TilePart& part, const Block& block, int first, int count) {
  const KvCache& kv = part.call->kv[part.row->level];
  const int k_bytes = part.call->spec->head_dim * dtype_bytes(kv.k.dtype);
  const int v_bytes = part.call->spec->value_dim() * dtype_bytes(kv.v.dtype);
  for (int key = first; key < std::min(first + count, block.next_keys); ++key) {
    prefetch_row(part.scratch.next_k_rows[key], k_bytes);
    prefetch_row(part.scratch.next_v_rows[key], v_bytes);
  }
}

// The keys of a block that a row attends to, in scratch.allowed. Only for mixed blocks.
inline void find_allowed(const TilePart& part, const Block& block, const TileRow& row) {
  const TileScratch& scratch = part.scratch;
  if (!row.exact_keys) {
    part.call->variant->mask_program.eval_mask(row.context, part.call->bindings, block.kv_pos,
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

}  // namespace tilewright::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
