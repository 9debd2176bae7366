// SPDX-License-Identifier: Apache-2.0
// Cosines and sines of rotary embeddings (arXiv 2104.09864). Angles are made and reduced in double:
// at position 10^6 an f32 angle would be off by 0.03 rad. Compiled once for each SIMD target.
#if defined(TILEWRIGHT_BASE_ROPE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TILEWRIGHT_BASE_ROPE_INL_H_
#undef TILEWRIGHT_BASE_ROPE_INL_H_
#else
#define TILEWRIGHT_BASE_ROPE_INL_H_
#endif

#include <hwy/highway.h>

#include <cstddef>

#include "base/rope.h"

HWY_BEFORE_NAMESPACE();
namespace tilewright {
namespace HWY_NAMESPACE {

// cosines[i], sines[i] = cos, sin of position * frequencies[i], times amplitude; right to f32 for
// |angle| < 2^30. All three arrays are `count` rounded up to kRopePadding elements long.
inline void rope_angles(double position, const double* frequencies, std::size_t count,
                        float* cosines, float* sines, float amplitude = 1) {
  namespace hn = hwy::HWY_NAMESPACE;
  const hn::ScalableTag<double> d;
  const hn::Rebind<float, decltype(d)> df;
  const hn::Rebind<std::int32_t, decltype(d)> di;
  for (std::size_t i = 0; i < count; i += hn::Lanes(d)) {
    const auto angle = hn::Mul(hn::Set(d, position), hn::LoadU(d, frequencies + i));
    // angle = quarters * pi / 2 + rest, with |rest| <= pi / 4. The first part of pi / 2 has 33
    // bits, so its products with up to 2^20 quarters are exact.
    const auto quarters = hn::Round(hn::Mul(angle, hn::Set(d, 0.63661977236758134308)));
    const auto high = hn::Mul(quarters, hn::Set(d, 1.57079632673412561417));
    const auto low = hn::Mul(quarters, hn::Set(d, 6.07710050650619224932e-11));
    const auto rest = hn::DemoteTo(df, hn::Sub(hn::Sub(angle, high), low));
    const auto turns = hn::Floor(hn::Mul(quarters, hn::Set(d, 0.25)));
    const auto quadrant = hn::DemoteTo(di, hn::Sub(quarters, hn::Mul(turns, hn::Set(d, 4.0))));
    // Polynomials of Cephes' sinf and cosf.
    const auto square = hn::Mul(rest, rest);
    auto sine = hn::MulAdd(square, hn::Set(df, -1.9515295891e-4F), hn::Set(df, 8.3321608736e-3F));
    sine = hn::MulAdd(square, sine, hn::Set(df, -1.6666654611e-1F));
    sine = hn::MulAdd(hn::Mul(square, sine), rest, rest);
    auto cosine =
        hn::MulAdd(square, hn::Set(df, 2.443315711809948e-5F), hn::Set(df, -1.388731625493765e-3F));
    cosine = hn::MulAdd(square, cosine, hn::Set(df, 4.166664568298827e-2F));
    cosine = hn::MulAdd(hn::Mul(square, square), cosine,
                        hn::NegMulAdd(square, hn::Set(df, 0.5F), hn::Set(df, 1.0F)));
    // A quarter turn is (cos, sin) -> (-sin, cos).
    const auto one = hn::Set(di, 1);
    const auto two = hn::Set(di, 2);
    const auto odd = hn::RebindMask(df, hn::Eq(hn::And(quadrant, one), one));
    const auto cos_sign = hn::ShiftLeft<30>(hn::And(hn::Add(quadrant, one), two));
    const auto sin_sign = hn::ShiftLeft<30>(hn::And(quadrant, two));
    const auto factor = hn::Set(df, amplitude);
    const auto cos_factor = hn::Xor(factor, hn::BitCast(df, cos_sign));
    const auto sin_factor = hn::Xor(factor, hn::BitCast(df, sin_sign));
    hn::StoreU(hn::Mul(hn::IfThenElse(odd, sine, cosine), cos_factor), df, cosines + i);
    hn::StoreU(hn::Mul(hn::IfThenElse(odd, cosine, sine), sin_factor), df, sines + i);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace tilewright
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
