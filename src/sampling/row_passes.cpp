// SPDX-License-Identifier: Apache-2.0
#include "sampling/row_passes.h"

#include <algorithm>

#include "base/element.h"
#include "base/numeric.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "sampling/row_passes.cpp"  // NOLINT(bugprone-suspicious-include)
#include <hwy/foreach_target.h>
// After foreach_target.h.
#include <hwy/highway.h>

#include "base/simd_io-inl.h"

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

constexpr float kInfinity = std::numeric_limits<float>::infinity();

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

// token_weight() in two parts: weight = (fraction << 32) >> shift.
struct WeightParts {
  hn::Vec<U32> fraction;
  hn::Vec<U32> shift;
};

HWY_INLINE WeightParts weight_parts(F32 d, Vec logit, const WeightScale& scale) {
  const I32 di;
  const U32 du;
  const auto product = hn::Mul(hn::Sub(logit, hn::Set(d, scale.largest)), hn::Set(d, scale.scale));
  const auto exponent = hn::Max(product, hn::Set(d, kLeastExponent));
  const auto whole = hn::Round(exponent);
  const auto f = hn::Sub(exponent, whole);
  auto power = hn::Set(d, kExp2Coefficients[5]);
  power = fused(d, f, power, hn::Set(d, kExp2Coefficients[4]));
  power = fused(d, f, power, hn::Set(d, kExp2Coefficients[3]));
  power = fused(d, f, power, hn::Set(d, kExp2Coefficients[2]));
  power = fused(d, f, power, hn::Set(d, kExp2Coefficients[1]));
  power = fused(d, f, power, hn::Set(d, kExp2Coefficients[0]));
  power = fused(d, f, power, hn::Set(d, 1.0F));
  const auto fraction = hn::ConvertTo(di, hn::Mul(power, hn::Set(d, 0x1.0p24F)));
  const auto shift = hn::ConvertTo(di, hn::Sub(hn::Set(d, 32.0F + 24 - kWeightBits), whole));
  return {hn::BitCast(du, fraction), hn::BitCast(du, shift)};
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

template <typename T>
void find_maxima(const Logits& logits, std::int64_t begin, std::int64_t end, float* maxima) {
  const F32 d;
  const T* values = static_cast<const T*>(logits.values);
  for (std::int64_t block = begin; block < end; block += kMaximumBlock) {
    auto largest = hn::Set(d, -kInfinity);
    const auto count = static_cast<std::size_t>(std::min(kMaximumBlock, end - block));
    for_lanes(d, count, [&](std::size_t i, auto part) HWY_ATTR {
      largest = hn::Max(largest, load_logits(d, values + block + i, part));
    });
    maxima[block / kMaximumBlock] = hn::GetLane(hn::MaxOfLanes(d, largest));
  }
}

template <typename T>
bool find_nan(const Logits& logits, std::int64_t begin, std::int64_t end) {
  const F32 d;
  const T* values = static_cast<const T*>(logits.values) + begin;
  auto found = hn::IsNaN(hn::Zero(d));
  for_lanes(d, static_cast<std::size_t>(end - begin), [&](std::size_t i, auto part) HWY_ATTR {
    found = hn::Or(found, hn::IsNaN(load(d, values + i, part)));
  });
  return !hn::AllFalse(d, found);
}

// Writes the lanes of `mask` one after the other, and anything behind them: a compressing store to
// memory is many times slower than this on current CPUs. Returns their number.
template <class D>
HWY_INLINE std::size_t append(D d, hn::Vec<D> value, hn::Mask<D> mask, hn::TFromD<D>* to) {
  hn::StoreU(hn::Compress(value, mask), d, to);
  return hn::CountTrue(d, mask);
}

template <typename T>
std::int64_t compact_block(const Logits& logits, std::int64_t begin, std::int64_t count,
                           const Kept& kept, float* values, std::int32_t* ids) {
  const F32 d;
  const I32 di;
  const auto threshold = hn::Set(d, kept.threshold);
  const auto last_tie = hn::Set(di, kept.last_tie);
  const auto iota = hn::Iota(di, 0);
  std::size_t written = 0;
  for_lanes(d, static_cast<std::size_t>(count), [&](std::size_t i, auto part) HWY_ATTR {
    const std::int64_t at = begin + static_cast<std::int64_t>(i);
    const auto value = load_logits(d, static_cast<const T*>(logits.values) + at, part);
    const auto id = load_ids(di, logits, at, iota, part);
    const auto late = hn::RebindMask(d, hn::Gt(id, last_tie));
    const auto tie = hn::AndNot(late, hn::Eq(value, threshold));
    const auto mask = hn::And(present(d, part), hn::Or(hn::Gt(value, threshold), tie));
    append(d, value, mask, values + written);
    written += append(di, id, hn::RebindMask(di, mask), ids + written);
  });
  return static_cast<std::int64_t>(written);
}

template <typename T>
std::int64_t compact_all(const Logits& logits, std::int64_t begin, std::int64_t end,
                         const Kept& kept, const float* maxima, float* values, std::int32_t* ids) {
  std::int64_t written = 0;
  for (std::int64_t block = begin; block < end; block += kMaximumBlock) {
    if (maxima != nullptr && maxima[block / kMaximumBlock] < kept.threshold) continue;
    written += compact_block<T>(logits, block, std::min(kMaximumBlock, end - block), kept,
                                values + written, ids + written);
  }
  return written;
}

// kTies: some entries at the threshold are not kept.
template <typename T, bool kTies>
void sum_masses(const Logits& logits, std::int64_t begin, std::int64_t end, const Kept& kept,
                std::uint64_t least, const WeightScale& scale, std::uint64_t* masses) {
  const F32 d;
  const I32 di;
  const auto threshold = hn::Set(d, kept.threshold);
  const auto last_tie = hn::Set(di, kept.last_tie);
  const auto iota = hn::Iota(di, 0);
  for (std::int64_t block = begin; block < end; block += kMassBlock) {
    MassSum sum;
    const auto count = static_cast<std::size_t>(std::min(kMassBlock, end - block));
    for_lanes(d, count, [&](std::size_t i, auto part) HWY_ATTR {
      const std::int64_t at = block + static_cast<std::int64_t>(i);
      const auto value = load_logits(d, static_cast<const T*>(logits.values) + at, part);
      auto mask = hn::Ge(value, threshold);
      if constexpr (kTies) {
        const auto late = hn::RebindMask(d, hn::Gt(load_ids(di, logits, at, iota, part), last_tie));
        mask = hn::AndNot(hn::And(late, hn::Eq(value, threshold)), mask);
      }
      sum.add(mask, weight_parts(d, value, scale), least);
    });
    masses[block / kMassBlock] = sum.total();
  }
}

template <typename T, bool kMass>
Split split_range(const Logits& logits, std::int64_t begin, std::int64_t end, float low, float high,
                  const WeightScale& scale, float* middle) {
  const F32 d;
  const auto lows = hn::Set(d, low);
  const auto highs = hn::Set(d, high);
  const T* values = static_cast<const T*>(logits.values) + begin;
  MassSum sum;
  std::size_t above = 0;
  std::size_t written = 0;
  auto least = hn::Set(d, kInfinity);
  auto largest = hn::Set(d, -kInfinity);
  for_lanes(d, static_cast<std::size_t>(end - begin), [&](std::size_t i, auto part) HWY_ATTR {
    const auto value = load_logits(d, values + i, part);
    const auto is_above = hn::Gt(value, highs);
    if constexpr (kMass) {
      sum.add(is_above, weight_parts(d, value, scale), 0);
    } else {
      above += hn::CountTrue(d, is_above);
    }
    const auto inside =
        hn::And(hn::And(hn::Ge(value, lows), hn::Le(value, highs)), present(d, part));
    least = hn::Min(least, hn::IfThenElse(inside, value, hn::Set(d, kInfinity)));
    largest = hn::Max(largest, hn::IfThenElse(inside, value, hn::Set(d, -kInfinity)));
    written += append(d, value, inside, middle + written);
  });
  return {kMass ? sum.total() : above, static_cast<std::int64_t>(written),
          hn::GetLane(hn::MinOfLanes(d, least)), hn::GetLane(hn::MaxOfLanes(d, largest))};
}

template <typename T>
BlockSplit split_each_block(const Logits& logits, std::int64_t begin, std::int64_t end, float low,
                            float high, const WeightScale& scale, std::uint64_t* masses,
                            std::int32_t* counts, float* middle) {
  const F32 d;
  const auto lows = hn::Set(d, low);
  const auto highs = hn::Set(d, high);
  MassSum total;
  std::size_t written = 0;
  for (std::int64_t block = begin; block < end; block += kMassBlock) {
    const T* values = static_cast<const T*>(logits.values) + block;
    MassSum above;
    const std::size_t before = written;
    const auto count = static_cast<std::size_t>(std::min(kMassBlock, end - block));
    for_lanes(d, count, [&](std::size_t i, auto part) HWY_ATTR {
      const auto value = load_logits(d, values + i, part);
      const auto parts = weight_parts(d, value, scale);
      const auto is_above = hn::Gt(value, highs);
      total.add(parts, 0);
      above.add(is_above, parts, 0);
      const auto inside = hn::AndNot(is_above, hn::And(hn::Ge(value, lows), present(d, part)));
      written += append(d, value, inside, middle + written);
    });
    masses[block / kMassBlock] = above.total();
    counts[block / kMassBlock] = static_cast<std::int32_t>(written - before);
  }
  return {total.total(), static_cast<std::int64_t>(written)};
}

std::int64_t add_middle_pass(const float* middle, std::int64_t blocks, const std::int32_t* counts,
                             float threshold, std::uint64_t least_weight, const WeightScale& scale,
                             std::uint64_t* masses) {
  const F32 d;
  const auto thresholds = hn::Set(d, threshold);
  const float* from = middle;
  for (std::int64_t block = 0; block < blocks; ++block) {
    const auto count = static_cast<std::size_t>(counts[block]);
    MassSum sum;
    for_lanes(d, count, [&](std::size_t i, auto part) HWY_ATTR {
      const auto value = load_logits(d, from + i, part);
      sum.add(hn::Ge(value, thresholds), weight_parts(d, value, scale), least_weight);
    });
    masses[block] += sum.total();
    from += count;
  }
  return from - middle;
}

template <typename T>
std::int32_t find_tie_in(const Logits& logits, float value, std::int64_t rank) {
  const F32 d;
  const T* values = static_cast<const T*>(logits.values);
  std::int64_t seen = 0;
  for (std::int64_t begin = 0; begin < logits.count; begin += kMaximumBlock) {
    std::size_t equal = 0;
    const std::int64_t count = std::min(kMaximumBlock, logits.count - begin);
    for_lanes(d, static_cast<std::size_t>(count), [&](std::size_t i, auto part) HWY_ATTR {
      const auto logit = load_logits(d, values + begin + i, part);
      const auto mask = hn::And(hn::Eq(logit, hn::Set(d, value)), present(d, part));
      equal += hn::CountTrue(d, mask);
    });
    if (seen + static_cast<std::int64_t>(equal) < rank) {
      seen += static_cast<std::int64_t>(equal);
      continue;
    }
    for (std::int64_t i = begin; i < begin + count; ++i) {
      if (clean_logit(load_element(values, logits.dtype, i)) == value && ++seen == rank) {
        return logits.id(i);
      }
    }
  }
  return std::numeric_limits<std::int32_t>::max();
}

void maxima_pass(const Logits& logits, std::int64_t begin, std::int64_t end, float* maxima) {
  visit_wide_float(logits.dtype,
                   [&](auto t) { find_maxima<decltype(t)>(logits, begin, end, maxima); });
}

bool nan_pass(const Logits& logits, std::int64_t begin, std::int64_t end) {
  return visit_wide_float(logits.dtype,
                          [&](auto t) { return find_nan<decltype(t)>(logits, begin, end); });
}

std::int64_t compact_pass(const Logits& logits, std::int64_t begin, std::int64_t end,
                          const Kept& kept, const float* maxima, float* values, std::int32_t* ids) {
  return visit_wide_float(logits.dtype, [&](auto t) {
    return compact_all<decltype(t)>(logits, begin, end, kept, maxima, values, ids);
  });
}

void mass_pass(const Logits& logits, std::int64_t begin, std::int64_t end, const Kept& kept,
               std::uint64_t least, const WeightScale& scale, std::uint64_t* masses) {
  visit_wide_float(logits.dtype, [&](auto t) {
    if (kept.last_tie == std::numeric_limits<std::int32_t>::max()) {
      sum_masses<decltype(t), false>(logits, begin, end, kept, least, scale, masses);
    } else {
      sum_masses<decltype(t), true>(logits, begin, end, kept, least, scale, masses);
    }
  });
}

Split mass_split_pass(const Logits& logits, std::int64_t begin, std::int64_t end, float low,
                      float high, const WeightScale& scale, float* middle) {
  return visit_wide_float(logits.dtype, [&](auto t) {
    return split_range<decltype(t), true>(logits, begin, end, low, high, scale, middle);
  });
}

Split count_split_pass(const Logits& logits, std::int64_t begin, std::int64_t end, float low,
                       float high, float* middle) {
  return visit_wide_float(logits.dtype, [&](auto t) {
    return split_range<decltype(t), false>(logits, begin, end, low, high, {}, middle);
  });
}

BlockSplit block_split_pass(const Logits& logits, std::int64_t begin, std::int64_t end, float low,
                            float high, const WeightScale& scale, std::uint64_t* masses,
                            std::int32_t* counts, float* middle) {
  return visit_wide_float(logits.dtype, [&](auto t) {
    return split_each_block<decltype(t)>(logits, begin, end, low, high, scale, masses, counts,
                                         middle);
  });
}

std::int32_t tie_pass(const Logits& logits, float value, std::int64_t rank) {
  return visit_wide_float(logits.dtype,
                          [&](auto t) { return find_tie_in<decltype(t)>(logits, value, rank); });
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace tilewright
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tilewright {
namespace {

HWY_EXPORT(maxima_pass);
HWY_EXPORT(nan_pass);
HWY_EXPORT(compact_pass);
HWY_EXPORT(mass_pass);
HWY_EXPORT(mass_split_pass);
HWY_EXPORT(count_split_pass);
HWY_EXPORT(block_split_pass);
HWY_EXPORT(add_middle_pass);
HWY_EXPORT(tie_pass);

}  // namespace

void find_block_maxima(const Logits& logits, std::int64_t begin, std::int64_t end, float* maxima) {
  HWY_DYNAMIC_DISPATCH(maxima_pass)(logits, begin, end, maxima);
}

bool has_nan(const Logits& logits, std::int64_t begin, std::int64_t end) {
  return HWY_DYNAMIC_DISPATCH(nan_pass)(logits, begin, end);
}

std::int64_t compact(const Logits& logits, std::int64_t begin, std::int64_t end, const Kept& kept,
                     const float* maxima, float* values, std::int32_t* ids) {
  return HWY_DYNAMIC_DISPATCH(compact_pass)(logits, begin, end, kept, maxima, values, ids);
}

void sum_block_masses(const Logits& logits, std::int64_t begin, std::int64_t end, const Kept& kept,
                      std::uint64_t least_weight, const WeightScale& scale, std::uint64_t* masses) {
  HWY_DYNAMIC_DISPATCH(mass_pass)(logits, begin, end, kept, least_weight, scale, masses);
}

Split split_by_mass(const Logits& logits, std::int64_t begin, std::int64_t end, float low,
                    float high, const WeightScale& scale, float* middle) {
  return HWY_DYNAMIC_DISPATCH(mass_split_pass)(logits, begin, end, low, high, scale, middle);
}

Split split_by_count(const Logits& logits, std::int64_t begin, std::int64_t end, float low,
                     float high, float* middle) {
  return HWY_DYNAMIC_DISPATCH(count_split_pass)(logits, begin, end, low, high, middle);
}

BlockSplit split_blocks(const Logits& logits, std::int64_t begin, std::int64_t end, float low,
                        float high, const WeightScale& scale, std::uint64_t* masses,
                        std::int32_t* counts, float* middle) {
  return HWY_DYNAMIC_DISPATCH(block_split_pass)(logits, begin, end, low, high, scale, masses,
                                                counts, middle);
}

std::int64_t add_middle(const float* middle, std::int64_t blocks, const std::int32_t* counts,
                        float threshold, std::uint64_t least_weight, const WeightScale& scale,
                        std::uint64_t* masses) {
  return HWY_DYNAMIC_DISPATCH(add_middle_pass)(middle, blocks, counts, threshold, least_weight,
                                               scale, masses);
}

float logit_at(const Logits& logits, std::int64_t i) {
  return clean_logit(load_element(logits.values, logits.dtype, i));
}

std::int32_t find_tie(const Logits& logits, float value, std::int64_t rank) {
  return HWY_DYNAMIC_DISPATCH(tie_pass)(logits, value, rank);
}

}  // namespace tilewright
#endif  // HWY_ONCE
