// SPDX-License-Identifier: Apache-2.0
// Rotary position embedding of queries and keys.
#include <tilewright/ops.h>

#include <cmath>
#include <vector>

#include "base/element.h"
#include "base/numeric.h"
#include "ops/op_common.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/rope.cpp"  // NOLINT(bugprone-suspicious-include)
#include <hwy/foreach_target.h>
// After foreach_target.h.
#include <hwy/highway.h>

#include "base/rope-inl.h"
#include "base/simd_io-inl.h"

#ifndef TILEWRIGHT_OPS_ROPE_CALL
#define TILEWRIGHT_OPS_ROPE_CALL
namespace tilewright {
namespace {

struct RopeCall {
  Rows x;  // rows are (token, head)
  Rows out;
  TensorView positions;
  const double* frequencies;  // [pairs], position_scale in them, padded
  std::size_t pairs;
  bool interleaved;
};

}  // namespace
}  // namespace tilewright
#endif

HWY_BEFORE_NAMESPACE();
namespace tilewright {
namespace HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;
using F32 = hn::ScalableTag<float>;

struct Angles {
  std::vector<float> cosines;
  std::vector<float> sines;
};

// Pairs (i, i + pairs).
template <typename X, typename Out>
void rotate_halves(const X* x, const Angles& angles, std::size_t pairs, Out* out) {
  const F32 d;
  for_lanes(d, pairs, [&](std::size_t i, auto part) HWY_ATTR {
    const auto cosine = hn::LoadU(d, angles.cosines.data() + i);
    const auto sine = hn::LoadU(d, angles.sines.data() + i);
    const auto first = load(d, x + i, part);
    const auto second = load(d, x + pairs + i, part);
    store(d, hn::MulSub(first, cosine, hn::Mul(second, sine)), out + i, part);
    store(d, hn::MulAdd(second, cosine, hn::Mul(first, sine)), out + pairs + i, part);
  });
}

// Pairs (2i, 2i + 1), by way of f32 rows because Highway interleaves whole vectors only.
template <typename X, typename Out>
void rotate_neighbours(const X* x, const Angles& angles, std::size_t pairs, float* row, Out* out) {
  const F32 d;
  for_lanes(d, 2 * pairs, [&](std::size_t i, auto part) HWY_ATTR {
    store(d, load(d, x + i, part), row + i, part);
  });
  for (std::size_t i = 0; i < pairs; i += hn::Lanes(d)) {
    const auto cosine = hn::LoadU(d, angles.cosines.data() + i);
    const auto sine = hn::LoadU(d, angles.sines.data() + i);
    hn::Vec<F32> even;
    hn::Vec<F32> odd;
    hn::LoadInterleaved2(d, row + 2 * i, even, odd);
    hn::StoreInterleaved2(hn::MulSub(even, cosine, hn::Mul(odd, sine)),
                          hn::MulAdd(odd, cosine, hn::Mul(even, sine)), d, row + 2 * i);
  }
  for_lanes(d, 2 * pairs, [&](std::size_t i, auto part) HWY_ATTR {
    store(d, load(d, row + i, part), out + i, part);
  });
}

template <typename X, typename Out>
void rope_tokens(const RopeCall& call, std::int64_t begin, std::int64_t end) {
  const F32 d;
  const std::size_t padded = (call.pairs + kRopePadding - 1) / kRopePadding * kRopePadding;
  Angles angles{std::vector<float>(padded), std::vector<float>(padded)};
  std::vector<float> row(call.interleaved ? 2 * padded : 0);
  const std::size_t rotated = 2 * call.pairs;
  for (std::int64_t token = begin; token < end; ++token) {
    const std::int64_t position =
        load_integer(call.positions.data, call.positions.dtype, token * call.positions.strides[0]);
    rope_angles(static_cast<double>(position), call.frequencies, call.pairs, angles.cosines.data(),
                angles.sines.data());
    for (std::int64_t head = 0; head < call.x.inner; ++head) {
      const X* x = call.x.row<X>(token * call.x.inner + head);
      Out* out = call.out.row<Out>(token * call.x.inner + head);
      if (call.interleaved) {
        rotate_neighbours(x, angles, call.pairs, row.data(), out);
      } else {
        rotate_halves(x, angles, call.pairs, out);
      }
      if (static_cast<const void*>(x) == static_cast<const void*>(out)) continue;
      for_lanes(d, call.x.dim - rotated, [&](std::size_t i, auto part) HWY_ATTR {
        store(d, load(d, x + rotated + i, part), out + rotated + i, part);
      });
    }
  }
}

void rope_chunk(const RopeCall& call, std::int64_t begin, std::int64_t end) {
  visit_wide_float(call.x.dtype, [&](auto x) {
    visit_wide_float(call.out.dtype,
                     [&](auto out) { rope_tokens<decltype(x), decltype(out)>(call, begin, end); });
  });
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace tilewright
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tilewright {
namespace {

HWY_EXPORT(rope_chunk);

// Padded with zeros. Kept from call to call: the powers cost more than a decode step's rotation.
const std::vector<double>& rope_frequencies(const RopeSpec& rope, int dim) {
  struct Cache {
    RopeSpec rope;
    int dim = 0;
    std::vector<double> frequencies;
  };
  thread_local Cache cache;
  if (cache.dim != dim || !(cache.rope == rope)) {
    constexpr std::size_t kPadding = 64;
    cache.frequencies.assign(
        (static_cast<std::size_t>(dim) / 2 + kPadding - 1) / kPadding * kPadding, 0.0);
    for (int i = 0; i < dim / 2; ++i) {
      cache.frequencies[static_cast<std::size_t>(i)] =
          rope.position_scale * std::pow(rope.theta, -2.0 * i / dim);
    }
    cache.rope = rope;
    cache.dim = dim;
  }
  return cache.frequencies;
}

}  // namespace

void apply_rope(const TensorView& x, const TensorView& positions, const TensorView& out,
                const RopeSpec& rope, Stream /*stream*/) {
  require_operand("x", x, {3});
  require_operand("out", out, {3});
  require_same_shape("out", out, "x", x);
  require_writable("out", out);
  require_in_place_or_apart("out", out, "x", x);
  require_rank("positions", positions, {1});
  require_shape("positions", positions, {x.shape[0]});
  require_dtype("positions", positions, {DType::i32, DType::i64});
  require_device("positions", positions, {});
  const std::int64_t head_dim = x.shape[2];
  require(rope.dim >= 0 && rope.dim <= head_dim, "rope.dim is {}: it must be in [0, {}]", rope.dim,
          head_dim);
  const int dim = rope.dim == 0 ? static_cast<int>(head_dim) : rope.dim;
  require(dim % 2 == 0, "rope.dim is {}: it must be even", dim);
  require(rope.theta > 0 && std::isfinite(rope.theta),
          "rope.theta is {}: it must be positive and finite", rope.theta);
  require(std::isfinite(rope.position_scale), "rope.position_scale is {}: it must be finite",
          rope.position_scale);
  const RopeCall call{Rows(x),
                      Rows(out),
                      positions,
                      rope_frequencies(rope, dim).data(),
                      static_cast<std::size_t>(dim) / 2,
                      rope.interleaved};
  parallel_items(x.shape[0], x.shape[1] * head_dim, [&](std::int64_t begin, std::int64_t end) {
    HWY_DYNAMIC_DISPATCH(rope_chunk)(call, begin, end);
  });
}

}  // namespace tilewright
#endif  // HWY_ONCE
