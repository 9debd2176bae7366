// SPDX-License-Identifier: Apache-2.0
// Loads of any floating-point element as f32 vectors and stores back, with the results of
// base/numeric.h: round to nearest even, fp8 saturates, f16 overflows to infinity, NaN stays NaN
// (its payload may differ). Compiled once for each SIMD target: include it after
// hwy/foreach_target.h. Highway 1.0.3's own conversions truncate to bf16, and on targets without
// F16C they have no rounding, infinity or NaN for f16: hence the integer arithmetic here.
#if defined(TILEWRIGHT_BASE_SIMD_IO_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TILEWRIGHT_BASE_SIMD_IO_INL_H_
#undef TILEWRIGHT_BASE_SIMD_IO_INL_H_
#else
#define TILEWRIGHT_BASE_SIMD_IO_INL_H_
#endif

#include <hwy/highway.h>

#include <cstring>

#include "base/element.h"

HWY_BEFORE_NAMESPACE();
namespace tilewright {
namespace HWY_NAMESPACE {
namespace simd_detail {

namespace hn = hwy::HWY_NAMESPACE;

// D is a tag of float vectors; bits come zero-extended in vectors of u32.
template <class D>
using U32 = hn::Vec<hn::RebindToUnsigned<D>>;
template <class D>
using U16 = hn::Vec<hn::Rebind<std::uint16_t, D>>;

template <class D>
HWY_INLINE hn::Vec<D> decode_f16(D d, U16<D> bits16) {
#if HWY_TARGET <= HWY_AVX2
  const hn::Rebind<hwy::float16_t, D> d16;
  return hn::PromoteTo(d, hn::BitCast(d16, bits16));
#else
  const hn::RebindToUnsigned<D> du;
  const auto bits = hn::PromoteTo(du, bits16);
  const auto magnitude = hn::ShiftLeft<13>(hn::And(bits, hn::Set(du, 0x7FFFU)));
  const auto sign = hn::ShiftLeft<16>(hn::And(bits, hn::Set(du, 0x8000U)));
  const auto biased = hn::Add(magnitude, hn::Set(du, (127U - 15U) << 23));
  // A subnormal gets the exponent of the smallest normal, and the leading one it lacks is
  // subtracted.
  const auto smallest = hn::Set(du, 113U << 23);
  const auto subnormal = hn::BitCast(
      du, hn::Sub(hn::BitCast(d, hn::Add(magnitude, smallest)), hn::BitCast(d, smallest)));
  const hn::RebindToSigned<D> di;
  const auto is_subnormal =
      hn::RebindMask(du, hn::Lt(hn::BitCast(di, magnitude), hn::Set(di, std::int32_t{1} << 23)));
  const auto is_special = hn::RebindMask(
      du, hn::Gt(hn::BitCast(di, magnitude), hn::Set(di, (std::int32_t{0x7C00} << 13) - 1)));
  const auto special = hn::Or(magnitude, hn::Set(du, 0x7F800000U));
  const auto value =
      hn::IfThenElse(is_special, special, hn::IfThenElse(is_subnormal, subnormal, biased));
  return hn::BitCast(d, hn::Or(value, sign));
#endif
}

// To a format of kExponent and kMantissa bits with IEEE's bias; returns sign and magnitude bits.
// Magnitudes are first limited to `largest`; kInfinity is the pattern that overflow of f16 reaches.
template <int kExponent, int kMantissa, class D>
HWY_INLINE U32<D> encode_small(D d, hn::Vec<D> value, float largest, std::uint32_t infinity) {
  constexpr int kBias = (1 << (kExponent - 1)) - 1;
  const hn::RebindToUnsigned<D> du;
  const auto bits = hn::BitCast(du, value);
  const auto magnitude = hn::And(bits, hn::Set(du, 0x7FFFFFFFU));
  const auto sign = hn::ShiftLeft<kExponent + kMantissa>(hn::ShiftRight<31>(bits));
  const auto limited = hn::Min(hn::BitCast(d, magnitude), hn::Set(d, largest));
  // Normal: round the mantissa in place; a carry moves into the exponent, as it should.
  const auto limited_bits = hn::BitCast(du, limited);
  const auto odd = hn::And(hn::ShiftRight<23 - kMantissa>(limited_bits), hn::Set(du, 1U));
  const auto rounded =
      hn::Add(hn::Add(limited_bits, odd), hn::Set(du, (1U << (22 - kMantissa)) - 1U));
  const auto normal = hn::Sub(hn::ShiftRight<23 - kMantissa>(rounded),
                              hn::Set(du, static_cast<std::uint32_t>(127 - kBias) << kMantissa));
  // Subnormal: adding a number whose last bit is worth one unit lets the adder round.
  constexpr std::uint32_t kUnit = static_cast<std::uint32_t>(127 + 23 + 1 - kBias - kMantissa)
                                  << 23;
  const auto unit = hn::Set(du, kUnit);
  const auto subnormal = hn::Sub(hn::BitCast(du, hn::Add(limited, hn::BitCast(d, unit))), unit);
  const auto smallest = hn::BitCast(d, hn::Set(du, static_cast<std::uint32_t>(128 - kBias) << 23));
  const auto is_subnormal = hn::RebindMask(du, hn::Lt(limited, smallest));
  const auto finite =
      hn::Min(hn::IfThenElse(is_subnormal, subnormal, normal), hn::Set(du, infinity));
  const auto nan = hn::Set(du, (1U << (kExponent + kMantissa)) - 1U);
  const auto is_nan = hn::RebindMask(du, hn::IsNaN(value));
  return hn::Or(hn::IfThenElse(is_nan, nan, finite), sign);
}

// Lanes of 0 .. 255 as bytes. Not by TruncateTo: Highway 1.0.3 gathers wrong bytes for AVX3_DL,
// which builds for one such machine (-march=native) choose.
template <class D>
HWY_INLINE void store_bytes(D /*d*/, U32<D> bits, void* to) {
  const hn::Rebind<std::uint8_t, D> du8;
  const hn::RebindToSigned<D> di32;
  hn::StoreU(hn::DemoteTo(du8, hn::BitCast(di32, bits)), du8, static_cast<std::uint8_t*>(to));
}

}  // namespace simd_detail

// Lanes(d) elements from `from` on, as f32. No alignment is needed.
template <class D>
HWY_INLINE hwy::HWY_NAMESPACE::Vec<D> load(D d, const float* from) {
  return hwy::HWY_NAMESPACE::LoadU(d, from);
}

template <class D>
HWY_INLINE hwy::HWY_NAMESPACE::Vec<D> load(D d, const BF16* from) {
  namespace hn = hwy::HWY_NAMESPACE;
  const hn::RebindToUnsigned<D> du;
  const hn::Rebind<std::uint16_t, D> du16;
  const auto bits = hn::LoadU(du16, reinterpret_cast<const std::uint16_t*>(from));
  return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(du, bits)));
}

template <class D>
HWY_INLINE hwy::HWY_NAMESPACE::Vec<D> load(D d, const F16* from) {
  namespace hn = hwy::HWY_NAMESPACE;
  const hn::Rebind<std::uint16_t, D> du16;
  return simd_detail::decode_f16(d, hn::LoadU(du16, reinterpret_cast<const std::uint16_t*>(from)));
}

template <class D>
HWY_INLINE hwy::HWY_NAMESPACE::Vec<D> load(D d, const F8E5M2* from) {
  namespace hn = hwy::HWY_NAMESPACE;
  const hn::Rebind<std::uint16_t, D> du16;
  const hn::Rebind<std::uint8_t, D> du8;
  const auto bits = hn::LoadU(du8, reinterpret_cast<const std::uint8_t*>(from));
  // e5m2 is the upper half of f16.
  return simd_detail::decode_f16(d, hn::ShiftLeft<8>(hn::PromoteTo(du16, bits)));
}

template <class D>
HWY_INLINE hwy::HWY_NAMESPACE::Vec<D> load(D d, const F8E4M3* from) {
  namespace hn = hwy::HWY_NAMESPACE;
  const hn::Rebind<std::uint16_t, D> du16;
  const hn::Rebind<std::uint8_t, D> du8;
  const auto bits =
      hn::PromoteTo(du16, hn::LoadU(du8, reinterpret_cast<const std::uint8_t*>(from)));
  // As f16, exponent and mantissa in place mean 2^-8 times the value, subnormals too; the one NaN
  // pattern becomes 480.
  const auto sign = hn::ShiftLeft<8>(hn::And(bits, hn::Set(du16, std::uint16_t{0x80})));
  const auto magnitude = hn::ShiftLeft<7>(hn::And(bits, hn::Set(du16, std::uint16_t{0x7F})));
  const auto value =
      hn::Mul(simd_detail::decode_f16(d, hn::Or(sign, magnitude)), hn::Set(d, 256.0F));
  return hn::IfThenElse(hn::Eq(hn::Abs(value), hn::Set(d, 480.0F)), hn::NaN(d), value);
}

template <class D>
HWY_INLINE void store(D d, hwy::HWY_NAMESPACE::Vec<D> value, float* to) {
  hwy::HWY_NAMESPACE::StoreU(value, d, to);
}

template <class D>
HWY_INLINE void store(D /*d*/, hwy::HWY_NAMESPACE::Vec<D> value, BF16* to) {
  namespace hn = hwy::HWY_NAMESPACE;
  const hn::RebindToUnsigned<D> du;
  const hn::Rebind<std::uint16_t, D> du16;
  const auto bits = hn::BitCast(du, value);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 1U));
  const auto rounded = hn::Add(hn::Add(bits, odd), hn::Set(du, 0x7FFFU));
  const auto quiet = hn::Or(bits, hn::Set(du, 0x400000U));
  const auto is_nan = hn::RebindMask(du, hn::IsNaN(value));
  const auto result = hn::ShiftRight<16>(hn::IfThenElse(is_nan, quiet, rounded));
  hn::StoreU(hn::TruncateTo(du16, result), du16, reinterpret_cast<std::uint16_t*>(to));
}

template <class D>
HWY_INLINE void store([[maybe_unused]] D d, hwy::HWY_NAMESPACE::Vec<D> value, F16* to) {
  namespace hn = hwy::HWY_NAMESPACE;
  const hn::Rebind<std::uint16_t, D> du16;
#if HWY_TARGET <= HWY_AVX2
  const hn::Rebind<hwy::float16_t, D> d16;
  const auto bits = hn::BitCast(du16, hn::DemoteTo(d16, value));
#else
  // 65536 and above round to the pattern of infinity.
  const auto bits =
      hn::TruncateTo(du16, simd_detail::encode_small<5, 10>(d, value, 65536.0F, 0x7C00U));
#endif
  hn::StoreU(bits, du16, reinterpret_cast<std::uint16_t*>(to));
}

template <class D>
HWY_INLINE void store(D d, hwy::HWY_NAMESPACE::Vec<D> value, F8E4M3* to) {
  simd_detail::store_bytes(d, simd_detail::encode_small<4, 3>(d, value, 448.0F, 0x7EU), to);
}

template <class D>
HWY_INLINE void store(D d, hwy::HWY_NAMESPACE::Vec<D> value, F8E5M2* to) {
  simd_detail::store_bytes(d, simd_detail::encode_small<5, 2>(d, value, 57344.0F, 0x7BU), to);
}

// The first `count` < Lanes(d) elements only, for ends of rows: other lanes are loaded as 0 and not
// stored.
template <class D, typename T>
HWY_INLINE hwy::HWY_NAMESPACE::Vec<D> load_first(D d, const T* from, std::size_t count) {
  HWY_ALIGN T lanes[hwy::HWY_NAMESPACE::MaxLanes(D())] = {};
  std::memcpy(lanes, from, count * sizeof(T));
  return load(d, lanes);
}

template <class D, typename T>
HWY_INLINE void store_first(D d, hwy::HWY_NAMESPACE::Vec<D> value, T* to, std::size_t count) {
  HWY_ALIGN T lanes[hwy::HWY_NAMESPACE::MaxLanes(D())];
  store(d, value, lanes);
  std::memcpy(to, lanes, count * sizeof(T));
}

// A whole vector, or the first lanes of one: so that one loop body serves both (for_lanes).
struct Whole {};
struct First {
  std::size_t count;
};

template <class D, typename T>
HWY_INLINE hwy::HWY_NAMESPACE::Vec<D> load(D d, const T* from, Whole /*part*/) {
  return load(d, from);
}
template <class D, typename T>
HWY_INLINE hwy::HWY_NAMESPACE::Vec<D> load(D d, const T* from, First part) {
  return load_first(d, from, part.count);
}
template <class D, typename T>
HWY_INLINE void store(D d, hwy::HWY_NAMESPACE::Vec<D> value, T* to, Whole /*part*/) {
  store(d, value, to);
}
template <class D, typename T>
HWY_INLINE void store(D d, hwy::HWY_NAMESPACE::Vec<D> value, T* to, First part) {
  store_first(d, value, to, part.count);
}

// body(i, part) for the vectors that cover elements [0, count); `part` goes to load and store.
template <class D, typename Body>
HWY_INLINE void for_lanes(D d, std::size_t count, const Body& body) {
  const std::size_t lanes = hwy::HWY_NAMESPACE::Lanes(d);
  std::size_t i = 0;
  for (; i + lanes <= count; i += lanes) body(i, Whole{});
  if (i < count) body(i, First{count - i});
}

}  // namespace HWY_NAMESPACE
}  // namespace tilewright
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
