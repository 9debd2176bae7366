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

#include "sampling/weights-inl.h"

HWY_BEFORE_NAMESPACE();
namespace tilewright {
namespace HWY_NAMESPACE {
namespace {

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
