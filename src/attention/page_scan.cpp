// SPDX-License-Identifier: Apache-2.0
#include "attention/page_scan.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "attention/page_scan.cpp"  // NOLINT(bugprone-suspicious-include)
#include <hwy/foreach_target.h>
// After foreach_target.h.
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace tilewright {
namespace HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;

std::uint32_t largest_id_simd(const std::uint32_t* ids, std::int64_t count) {
  const hn::ScalableTag<std::uint32_t> d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  auto a = hn::Zero(d);
  auto b = hn::Zero(d);
  std::int64_t i = 0;
  for (; i + 4 * lanes <= count; i += 4 * lanes) {
    const auto first = hn::Max(hn::LoadU(d, ids + i), hn::LoadU(d, ids + i + lanes));
    const auto second =
        hn::Max(hn::LoadU(d, ids + i + 2 * lanes), hn::LoadU(d, ids + i + 3 * lanes));
    a = hn::Max(a, first);
    b = hn::Max(b, second);
  }
  for (; i + lanes <= count; i += lanes) a = hn::Max(a, hn::LoadU(d, ids + i));
  // The last ids once more: a maximum does not mind.
  if (i < count && count >= lanes) {
    a = hn::Max(a, hn::LoadU(d, ids + count - lanes));
    i = count;
  }
  std::uint32_t largest = hn::GetLane(hn::MaxOfLanes(d, hn::Max(a, b)));
  for (; i < count; ++i) largest = largest < ids[i] ? ids[i] : largest;
  return largest;
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace tilewright
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tilewright {

HWY_EXPORT(largest_id_simd);

std::uint32_t largest_id(const std::int32_t* ids, std::int64_t count) {
  return HWY_DYNAMIC_DISPATCH(largest_id_simd)(reinterpret_cast<const std::uint32_t*>(ids), count);
}

}  // namespace tilewright
#endif
