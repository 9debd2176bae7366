// SPDX-License-Identifier: Apache-2.0
#include "sampling/typical_passes.h"

#include <algorithm>

#include "base/element.h"
#include "base/numeric.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "sampling/typical_passes.cpp"  // NOLINT(bugprone-suspicious-include)
#include <hwy/foreach_target.h>
// After foreach_target.h.
#include <hwy/highway.h>

#include "sampling/weights-inl.h"

HWY_BEFORE_NAMESPACE();
namespace tilewright {
namespace HWY_NAMESPACE {
namespace {

HWY_INLINE Vec scores(F32 d, Vec logit, const Typicality& typicality) {
  const auto distance =
      hn::Abs(hn::Sub(token_exponent(d, logit, typicality.scale), hn::Set(d, typicality.mean)));
  return hn::Sub(hn::Zero(d), distance);
}

// The sums of weights, up to 2^40, and of their products with factors below 2^22.
struct MomentSum {
  MassSum mass;
  hn::Vec<U64> even;
  hn::Vec<U64> odd;

  // Written out: an implicit constructor would be compiled without the target's instructions.
  HWY_INLINE MomentSum() : even(hn::Zero(U64())), odd(hn::Zero(U64())) {}

  HWY_INLINE void add(WeightParts parts, hn::Vec<U32> factor) {
    const U64 d;
#if HWY_TARGET == HWY_SCALAR
    const std::uint64_t weight =
        (std::uint64_t{hn::GetLane(parts.fraction)} << 32) >> hn::GetLane(parts.shift);
    mass.even = hn::Add(mass.even, hn::Set(d, weight));
    even = hn::Add(even, hn::Set(d, weight * hn::GetLane(factor)));
#else
    const U32 du;
    const auto low_half = hn::Set(d, 0xFFFFFFFFU);
    const auto odd_factor = hn::BitCast(du, hn::ShiftRight<32>(hn::BitCast(d, factor)));
    // Most weights have 32 bits or less: of these one shift makes all and one product is enough.
    constexpr std::uint32_t kLeastShift = 27;
    const auto shift_of_small = hn::Set(du, kLeastShift);
    if (hn::AllFalse(du, hn::Gt(shift_of_small, parts.shift))) {
      // Fractions are below 2^25, and shifted by 31 bits none of them is left.
      const auto rest = hn::Min(hn::Sub(parts.shift, shift_of_small), hn::Set(du, 31U));
      const auto weight = hn::Shr(hn::ShiftLeft<32 - kLeastShift>(parts.fraction), rest);
      const auto odd_weight = hn::ShiftRight<32>(hn::BitCast(d, weight));
      mass.even = hn::Add(mass.even, hn::And(hn::BitCast(d, weight), low_half));
      mass.odd = hn::Add(mass.odd, odd_weight);
      even = hn::Add(even, hn::MulEven(weight, factor));
      odd = hn::Add(odd, hn::MulEven(hn::BitCast(du, odd_weight), odd_factor));
      return;
    }
    const auto fraction = hn::BitCast(d, parts.fraction);
    const auto shift = hn::BitCast(d, parts.shift);
    const auto product = [&](auto weight, auto by) HWY_ATTR {
      const auto low = hn::MulEven(hn::BitCast(du, weight), by);
      const auto high = hn::MulEven(hn::BitCast(du, hn::ShiftRight<32>(weight)), by);
      return hn::Add(low, hn::ShiftLeft<32>(high));
    };
    const auto even_weight = hn::Shr(hn::ShiftLeft<32>(fraction), hn::And(shift, low_half));
    const auto odd_weight = hn::Shr(hn::AndNot(low_half, fraction), hn::ShiftRight<32>(shift));
    mass.even = hn::Add(mass.even, even_weight);
    mass.odd = hn::Add(mass.odd, odd_weight);
    even = hn::Add(even, product(even_weight, factor));
    odd = hn::Add(odd, product(odd_weight, odd_factor));
#endif
  }

  std::uint64_t product() const {
    const U64 d;
    return hn::GetLane(hn::SumOfLanes(d, hn::Add(even, odd)));
  }
};

// Passes are compiled for probabilities and for logits: the calls that only the former need would
// keep the latter's constants out of registers.
template <typename T, bool kProbabilities>
Moments moments_of(const Logits& logits, std::int64_t begin, std::int64_t end, WeightScale scale) {
  scale.of_probabilities = kProbabilities;
  const F32 d;
  const auto unit = hn::Set(d, 1 << kExponentBits);
  const auto zero = hn::Set(d, kWholeNumbers);
  Moments moments;
  for (std::int64_t block = begin; block < end; block += kMassBlock) {
    const T* values = static_cast<const T*>(logits.values) + block;
    MomentSum sum;
    const auto count = static_cast<std::size_t>(std::min(kMassBlock, end - block));
    for_lanes(d, count, [&](std::size_t i, auto part) HWY_ATTR {
      const auto value = load_logits(d, values + i, part);
      const auto parts = weight_parts(d, value, scale);
      const auto moved = hn::Add(hn::Mul(token_exponent(d, value, scale), unit), zero);
      sum.add(parts, distance_down(d, moved));
    });
    moments.mass += sum.mass.total();
    moments.product += sum.product();
  }
  return moments;
}

// kCopies: the entries near the mean are copied, too. Of peaked rows few are, so most vectors are
// done with their scores.
template <typename T, bool kProbabilities, bool kCopies>
NearSplit split_range(const Logits& logits, std::int64_t begin, std::int64_t end, float low,
                      float high, Typicality typicality, float* middle, float* values,
                      std::int32_t* ids) {
  typicality.scale.of_probabilities = kProbabilities;
  const F32 d;
  const I32 di;
  const auto lows = hn::Set(d, low);
  const auto highs = hn::Set(d, high);
  const auto iota = hn::Iota(di, 0);
  MassSum sum;
  std::size_t written = 0;
  std::size_t copied = 0;
  auto least = hn::Set(d, std::numeric_limits<float>::infinity());
  auto largest = hn::Set(d, -std::numeric_limits<float>::infinity());
  for_lanes(d, static_cast<std::size_t>(end - begin), [&](std::size_t i, auto part) HWY_ATTR {
    const std::int64_t at = begin + static_cast<std::int64_t>(i);
    const auto value = load_logits(d, static_cast<const T*>(logits.values) + at, part);
    const auto score = scores(d, value, typicality);
    const auto near = hn::And(hn::Ge(score, lows), present(d, part));
    if (hn::AllFalse(d, near)) return;
    const auto is_above = hn::And(hn::Gt(score, highs), near);
    if (!hn::AllFalse(d, is_above)) sum.add(is_above, weight_parts(d, value, typicality.scale), 0);
    const auto inside = hn::AndNot(is_above, near);
    least = hn::Min(least, hn::IfThenElse(inside, score, least));
    largest = hn::Max(largest, hn::IfThenElse(inside, score, largest));
    written += append(d, value, inside, middle + written);
    if constexpr (kCopies) {
      append(d, value, near, values + copied);
      const auto id = load_ids(di, logits, at, iota, part);
      copied += append(di, id, hn::RebindMask(di, near), ids + copied);
    }
  });
  return {{sum.total(), static_cast<std::int64_t>(written), hn::GetLane(hn::MinOfLanes(d, least)),
           hn::GetLane(hn::MaxOfLanes(d, largest))},
          static_cast<std::int64_t>(copied)};
}

template <typename T>
std::int64_t compact_range(const Logits& logits, std::int64_t begin, std::int64_t end,
                           const Kept& kept, bool ties_only, const Typicality& typicality,
                           float* values, std::int32_t* ids) {
  const F32 d;
  const I32 di;
  const auto threshold = hn::Set(d, kept.threshold);
  const auto last_tie = hn::Set(di, kept.last_tie);
  const auto iota = hn::Iota(di, 0);
  std::size_t written = 0;
  for_lanes(d, static_cast<std::size_t>(end - begin), [&](std::size_t i, auto part) HWY_ATTR {
    const std::int64_t at = begin + static_cast<std::int64_t>(i);
    const auto value = load_logits(d, static_cast<const T*>(logits.values) + at, part);
    const auto score = scores(d, value, typicality);
    const auto id = load_ids(di, logits, at, iota, part);
    const auto late = hn::RebindMask(d, hn::Gt(id, last_tie));
    auto mask = hn::AndNot(late, hn::Eq(score, threshold));
    if (!ties_only) mask = hn::Or(mask, hn::Gt(score, threshold));
    mask = hn::And(mask, present(d, part));
    append(d, value, mask, values + written);
    written += append(di, id, hn::RebindMask(di, mask), ids + written);
  });
  return static_cast<std::int64_t>(written);
}

Moments moments_pass(const Logits& logits, std::int64_t begin, std::int64_t end,
                     const WeightScale& scale) {
  return visit_wide_float(logits.dtype, [&](auto t) {
    using T = decltype(t);
    return scale.of_probabilities ? moments_of<T, true>(logits, begin, end, scale)
                                  : moments_of<T, false>(logits, begin, end, scale);
  });
}

template <bool kCopies>
NearSplit split_as(const Logits& logits, std::int64_t begin, std::int64_t end, float low,
                   float high, const Typicality& typicality, float* middle, float* values,
                   std::int32_t* ids) {
  return visit_wide_float(logits.dtype, [&](auto t) {
    using T = decltype(t);
    return typicality.scale.of_probabilities
               ? split_range<T, true, kCopies>(logits, begin, end, low, high, typicality, middle,
                                               values, ids)
               : split_range<T, false, kCopies>(logits, begin, end, low, high, typicality, middle,
                                                values, ids);
  });
}

Split typical_split_pass(const Logits& logits, std::int64_t begin, std::int64_t end, float low,
                         float high, const Typicality& typicality, float* middle) {
  return split_as<false>(logits, begin, end, low, high, typicality, middle, nullptr, nullptr).split;
}

NearSplit near_split_pass(const Logits& logits, std::int64_t begin, std::int64_t end, float low,
                          float high, const Typicality& typicality, float* middle, float* values,
                          std::int32_t* ids) {
  return split_as<true>(logits, begin, end, low, high, typicality, middle, values, ids);
}

std::int64_t typical_compact_pass(const Logits& logits, std::int64_t begin, std::int64_t end,
                                  const Kept& kept, bool ties_only, const Typicality& typicality,
                                  float* values, std::int32_t* ids) {
  return visit_wide_float(logits.dtype, [&](auto t) {
    return compact_range<decltype(t)>(logits, begin, end, kept, ties_only, typicality, values, ids);
  });
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace tilewright
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tilewright {
namespace {

HWY_EXPORT(moments_pass);
HWY_EXPORT(typical_split_pass);
HWY_EXPORT(near_split_pass);
HWY_EXPORT(typical_compact_pass);

}  // namespace

Moments sum_moments(const Logits& logits, std::int64_t begin, std::int64_t end,
                    const WeightScale& scale) {
  return HWY_DYNAMIC_DISPATCH(moments_pass)(logits, begin, end, scale);
}

Split split_by_typicality(const Logits& logits, std::int64_t begin, std::int64_t end, float low,
                          float high, const Typicality& typicality, float* middle) {
  return HWY_DYNAMIC_DISPATCH(typical_split_pass)(logits, begin, end, low, high, typicality,
                                                  middle);
}

NearSplit split_near(const Logits& logits, std::int64_t begin, std::int64_t end, float low,
                     float high, const Typicality& typicality, float* middle, float* values,
                     std::int32_t* ids) {
  return HWY_DYNAMIC_DISPATCH(near_split_pass)(logits, begin, end, low, high, typicality, middle,
                                               values, ids);
}

std::int64_t compact_typical(const Logits& logits, std::int64_t begin, std::int64_t end,
                             const Kept& kept, bool ties_only, const Typicality& typicality,
                             float* values, std::int32_t* ids) {
  return HWY_DYNAMIC_DISPATCH(typical_compact_pass)(logits, begin, end, kept, ties_only, typicality,
                                                    values, ids);
}

}  // namespace tilewright
#endif  // HWY_ONCE
