// SPDX-License-Identifier: Apache-2.0
// Logits and weights as vectors, for passes over rows. Compiled once for each SIMD target: include
// it after hwy/foreach_target.h.
#if defined(TILEWRIGHT_SAMPLING_WEIGHTS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TILEWRIGHT_SAMPLING_WEIGHTS_INL_H_
#undef TILEWRIGHT_SAMPLING_WEIGHTS_INL_H_
#else
#define TILEWRIGHT_SAMPLING_WEIGHTS_INL_H_
#endif

#include <hwy/highway.h>

#include "base/simd_io-inl.h"
#include "sampling/row_passes.h"

HWY_BEFORE_NAMESPACE();
namespace tilewright {
namespace HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;
using F32 = hn::ScalableTag<float>;
using I32 = hn::ScalableTag<std::int32_t>;
using U32 = hn::ScalableTag<std::uint32_t>;
using U64 = hn::ScalableTag<std::uint64_t>;
using Vec = hn::Vec<F32>;
using Mask = hn::Mask<F32>;

inline constexpr float kInfinity = std::numeric_limits<float>::infinity();

HWY_INLINE Mask present(F32 d, Whole /*part*/) {
  return hn::FirstN(d, hn::Lanes(d));
}
HWY_INLINE Mask present(F32 d, First part) {
  return hn::FirstN(d, part.count);
}

// NaN becomes -inf, and -0 becomes 0. Lanes behind the end are -inf.
HWY_INLINE Vec clean(F32 d, Vec value) {
  return hn::IfThenElse(hn::IsNaN(value), hn::Set(d, -kInfinity), hn::Add(value, hn::Zero(d)));
}
template <typename T>
HWY_INLINE Vec load_logits(F32 d, const T* from, Whole part) {
  return clean(d, load(d, from, part));
}
template <typename T>
HWY_INLINE Vec load_logits(F32 d, const T* from, First part) {
  return hn::IfThenElse(present(d, part), clean(d, load(d, from, part)), hn::Set(d, -kInfinity));
}

// `iota` is 0, 1, 2, ...: Highway makes it by way of memory, so it is made once a pass.
HWY_INLINE hn::Vec<I32> load_ids(I32 d, const Logits& logits, std::int64_t i, hn::Vec<I32> iota,
                                 Whole /*part*/) {
  if (logits.ids == nullptr) return hn::Add(iota, hn::Set(d, static_cast<std::int32_t>(i)));
  return hn::LoadU(d, logits.ids + i);
}
HWY_INLINE hn::Vec<I32> load_ids(I32 d, const Logits& logits, std::int64_t i, hn::Vec<I32> iota,
                                 First part) {
  if (logits.ids == nullptr) return load_ids(d, logits, i, iota, Whole());
  HWY_ALIGN std::int32_t lanes[hn::MaxLanes(I32())] = {};
  std::memcpy(lanes, logits.ids + i, part.count * sizeof(std::int32_t));
  return hn::Load(d, lanes);
}

HWY_INLINE Vec fused(F32 d, Vec a, Vec b, Vec c) {
#if HWY_TARGET == HWY_SCALAR || HWY_TARGET == HWY_EMU128 || HWY_TARGET == HWY_SSSE3 || \
    HWY_TARGET == HWY_SSE4
  // No fused instruction here: exactness goes before speed.
  HWY_ALIGN float x[hn::MaxLanes(F32())];
  HWY_ALIGN float y[hn::MaxLanes(F32())];
  HWY_ALIGN float z[hn::MaxLanes(F32())];
  hn::Store(a, d, x);
  hn::Store(b, d, y);
  hn::Store(c, d, z);
  for (std::size_t i = 0; i < hn::Lanes(d); ++i) x[i] = std::fma(x[i], y[i], z[i]);
  return hn::Load(d, x);
#else
  (void)d;
  return hn::MulAdd(a, b, c);
#endif
}

// Of probabilities, which seldom need it.
inline Vec exponents_of_probabilities(F32 d, Vec p, const WeightScale& scale) {
  HWY_ALIGN float lanes[hn::MaxLanes(F32())];
  hn::Store(p, d, lanes);
  for (std::size_t i = 0; i < hn::Lanes(d); ++i)
    lanes[i] = tilewright::token_exponent(lanes[i], scale);
  return hn::Load(d, lanes);
}

HWY_INLINE Vec token_exponent(F32 d, Vec logit, const WeightScale& scale) {
  if (scale.of_probabilities) return exponents_of_probabilities(d, logit, scale);
  const auto product = hn::Mul(hn::Sub(logit, hn::Set(d, scale.largest)), hn::Set(d, scale.scale));
  return hn::Max(product, hn::Set(d, kLeastExponent));
}

// Where f32 has whole numbers alone: a sum with it is rounded to nearest even, and its low bits are
// the number. Conversions take several instructions more, for numbers that do not fit.
inline constexpr float kWholeNumbers = 0x1.8p23F;

// -n of kWholeNumbers + n, for n in [-2^22, 0].
HWY_INLINE hn::Vec<U32> distance_down(F32 d, Vec moved) {
  const U32 du;
  return hn::Sub(hn::BitCast(du, hn::Set(d, kWholeNumbers)), hn::BitCast(du, moved));
}

// token_weight() in two parts: weight = (fraction << 32) >> shift.
struct WeightParts {
  hn::Vec<U32> fraction;
  hn::Vec<U32> shift;
};

// A probability over the largest one is mantissa * 2^(exponent - 150) with the mantissa below 2^24.
HWY_INLINE WeightParts weight_parts_of_probabilities(F32 d, Vec p, const WeightScale& scale) {
  const U32 du;
  const auto relative = hn::Max(hn::Div(p, hn::Set(d, scale.largest)), hn::Zero(d));
  const auto bits = hn::BitCast(du, relative);
  const auto exponent = hn::ShiftRight<23>(bits);
  const auto mantissa = hn::Or(hn::And(bits, hn::Set(du, 0x7FFFFFU)), hn::Set(du, 0x800000U));
  // Subnormals have no such mantissa, but no weight either.
  const auto shift = hn::Sub(hn::Set(du, 32 + 150 - kWeightBits), exponent);
  return {mantissa, hn::Min(shift, hn::Set(du, 63U))};
}

HWY_INLINE WeightParts weight_parts(F32 d, Vec logit, const WeightScale& scale) {
  if (scale.of_probabilities) return weight_parts_of_probabilities(d, logit, scale);
  const U32 du;
  const auto exponent = token_exponent(d, logit, scale);
  const auto moved = hn::Add(exponent, hn::Set(d, kWholeNumbers));
  const auto f = hn::Sub(exponent, hn::Sub(moved, hn::Set(d, kWholeNumbers)));
  const auto whole = distance_down(d, moved);
  auto power = hn::Set(d, kExp2Coefficients[5]);
  power = fused(d, f, power, hn::Set(d, kExp2Coefficients[4]));
  power = fused(d, f, power, hn::Set(d, kExp2Coefficients[3]));
  power = fused(d, f, power, hn::Set(d, kExp2Coefficients[2]));
  power = fused(d, f, power, hn::Set(d, kExp2Coefficients[1]));
  power = fused(d, f, power, hn::Set(d, kExp2Coefficients[0]));
  power = fused(d, f, power, hn::Set(d, 1.0F));
  // In [0.7, 1.5), a multiple of 2^-24: as a mantissa of 24 bits.
  const auto bits = hn::BitCast(du, power);
  const auto mantissa = hn::Or(hn::And(bits, hn::Set(du, 0x7FFFFFU)), hn::Set(du, 0x800000U));
  const auto shift =
      hn::Sub(hn::Add(whole, hn::Set(du, 32 + 150 - kWeightBits)), hn::ShiftRight<23>(bits));
  return {mantissa, shift};
}

// Sums of weights in 64-bit lanes: those of even and of odd lanes apart, because their order does
// not matter and so no lane has to move.
struct MassSum {
  hn::Vec<U64> even;
  hn::Vec<U64> odd;

  // Written out: an implicit constructor would be compiled without the target's instructions.
  HWY_INLINE MassSum() : even(hn::Zero(U64())), odd(hn::Zero(U64())) {}

  HWY_INLINE void add(WeightParts parts, std::uint64_t least) {
    const U64 d;
#if HWY_TARGET == HWY_SCALAR
    const std::uint64_t weight =
        (std::uint64_t{hn::GetLane(parts.fraction)} << 32) >> hn::GetLane(parts.shift);
    even = hn::Add(even, hn::Set(d, weight >= least ? weight : 0));
#else
    const auto low_half = hn::Set(d, 0xFFFFFFFFU);
    const auto fraction = hn::BitCast(d, parts.fraction);
    const auto shift = hn::BitCast(d, parts.shift);
    auto even_weight = hn::Shr(hn::ShiftLeft<32>(fraction), hn::And(shift, low_half));
    auto odd_weight = hn::Shr(hn::AndNot(low_half, fraction), hn::ShiftRight<32>(shift));
    if (least > 0) {
      const auto limit = hn::Set(d, least);
      even_weight = hn::IfThenZeroElse(hn::Gt(limit, even_weight), even_weight);
      odd_weight = hn::IfThenZeroElse(hn::Gt(limit, odd_weight), odd_weight);
    }
    even = hn::Add(even, even_weight);
    odd = hn::Add(odd, odd_weight);
#endif
  }

  // Only lanes of `mask`.
  HWY_INLINE void add(Mask mask, WeightParts parts, std::uint64_t least) {
    const U32 du;
    add({hn::IfThenElseZero(hn::RebindMask(du, mask), parts.fraction), parts.shift}, least);
  }

  std::uint64_t total() const {
    const U64 d;
    return hn::GetLane(hn::SumOfLanes(d, hn::Add(even, odd)));
  }
};

#if HWY_TARGET == HWY_AVX2
// Of each mask of eight lanes the indices of those it has, in order, in four bits each. Highway has
// such a table, too, but GCC copies all of it each time it is used.
struct CompressTable {
  std::uint32_t indices[256];

  constexpr CompressTable() : indices() {
    for (std::uint32_t mask = 0; mask < 256; ++mask) {
      std::uint32_t at = 0;
      for (std::uint32_t lane = 0; lane < 8; ++lane) {
        if ((mask >> lane & 1U) != 0) indices[mask] |= lane << (4 * at++);
      }
    }
  }
};
inline constexpr CompressTable kCompressTable;
alignas(32) inline constexpr std::uint32_t kIndexShifts[8] = {0, 4, 8, 12, 16, 20, 24, 28};

template <class D>
HWY_INLINE hn::Vec<D> compressed(D d, hn::Vec<D> value, hn::Mask<D> mask) {
  const U32 du;
  std::uint8_t bits = 0;
  hn::StoreMaskBits(d, mask, &bits);
  const auto packed = hn::Set(du, kCompressTable.indices[bits]);
  const auto indices = hn::And(hn::Shr(packed, hn::Load(du, kIndexShifts)), hn::Set(du, 7U));
  return hn::TableLookupLanes(value, hn::IndicesFromVec(d, indices));
}
#else
template <class D>
HWY_INLINE hn::Vec<D> compressed(D /*d*/, hn::Vec<D> value, hn::Mask<D> mask) {
  return hn::Compress(value, mask);
}
#endif

// Writes the lanes of `mask` one after the other, and anything behind them: a compressing store to
// memory is many times slower than this on current CPUs. Returns their number.
template <class D>
HWY_INLINE std::size_t append(D d, hn::Vec<D> value, hn::Mask<D> mask, hn::TFromD<D>* to) {
  hn::StoreU(compressed(d, value, mask), d, to);
  return hn::CountTrue(d, mask);
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace tilewright
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
