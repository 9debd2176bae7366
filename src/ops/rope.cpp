// SPDX-License-Identifier: Apache-2.0
// Rotary position embedding of queries and keys.
#include "base/rope.h"

#include <tilewright/ops.h>

#include <algorithm>
#include <vector>

#include "base/element.h"
#include "base/numeric.h"
#include "ops/cuda_run.h"
#include "ops/op_common.h"
#include "ops/rope_checks.h"

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

// Arrays of one element a pair are padded to a multiple of kRopePadding.
struct RopeCall {
  Rows x;  // rows are (token, head)
  Rows out;
  TensorView positions;  // [axes, tokens]
  TensorView table;      // cosines and sines, or undefined:
  const RopeFrequencies* frequencies;
  const std::uint8_t* axis_of_pair;
  std::size_t pairs;
  bool interleaved;

  std::int64_t position(std::int64_t axis, std::int64_t token) const {
    return load_integer(positions.data, positions.dtype,
                        axis * positions.strides[0] + token * positions.strides[1]);
  }
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

// The cosines and sines of a token.
class Angles {
 public:
  explicit Angles(const RopeCall& call) : cosines(padded(call)), sines(padded(call)), call_(call) {
    if (call.table.defined()) {
      rows_.resize(static_cast<std::size_t>(call.positions.shape[0]) * 2 * call.pairs);
    } else {
      angles_.resize(padded(call));
    }
  }

  void move_to(std::int64_t token) {
    if (call_.table.defined()) {
      visit_wide_float(call_.table.dtype, [&](auto t) { read_table<decltype(t)>(token); });
    } else {
      compute(token);
    }
  }

  std::vector<float> cosines;
  std::vector<float> sines;

 private:
  static std::size_t padded(const RopeCall& call) {
    return (call.pairs + kRopePadding - 1) / kRopePadding * kRopePadding;
  }

  void compute(std::int64_t token) {
    double positions[RopeSections::kMaxAxes] = {};
    for (std::int64_t axis = 0; axis < call_.positions.shape[0]; ++axis) {
      positions[axis] = static_cast<double>(call_.position(axis, token));
    }
    for (std::size_t i = 0; i < call_.pairs; ++i) {
      angles_[i] = positions[call_.axis_of_pair[i]] * call_.frequencies->values[i];
    }
    rope_angles(1.0, angles_.data(), call_.pairs, cosines.data(), sines.data(),
                call_.frequencies->amplitude);
  }

  template <typename T>
  void read_table(std::int64_t token) {
    const F32 d;
    const std::size_t dim = 2 * call_.pairs;
    for (std::int64_t axis = 0; axis < call_.positions.shape[0]; ++axis) {
      const T* from = static_cast<const T*>(call_.table.data) +
                      call_.position(axis, token) * call_.table.strides[0];
      float* row = rows_.data() + static_cast<std::size_t>(axis) * dim;
      for_lanes(d, dim, [&](std::size_t i, auto part) HWY_ATTR {
        store(d, load(d, from + i, part), row + i, part);
      });
    }
    for (std::size_t i = 0; i < call_.pairs; ++i) {
      const float* row = rows_.data() + call_.axis_of_pair[i] * dim;
      cosines[i] = row[i];
      sines[i] = row[call_.pairs + i];
    }
  }

  const RopeCall& call_;
  std::vector<double> angles_;
  std::vector<float> rows_;  // [axes, dim]: the table's
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
  Angles angles(call);
  std::vector<float> row(call.interleaved ? 2 * angles.cosines.size() : 0);
  const std::size_t rotated = 2 * call.pairs;
  for (std::int64_t token = begin; token < end; ++token) {
    angles.move_to(token);
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
  visit_wide_floats(call.x.dtype, call.out.dtype, [&](auto x, auto out) {
    rope_tokens<decltype(x), decltype(out)>(call, begin, end);
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

void check_tensors(const TensorView& x, const TensorView& out) {
  require_operand("x", x, {3}, x.device);
  require_operand("out", out, {3}, x.device);
  require_same_shape("out", out, "x", x);
  require_writable("out", out);
  require_in_place_or_apart("out", out, "x", x);
}

void rotate(const RopeCall& call) {
  const std::int64_t elements = call.x.inner * static_cast<std::int64_t>(call.x.dim);
  parallel_items(call.positions.shape[1], elements, [&](std::int64_t begin, std::int64_t end) {
    HWY_DYNAMIC_DISPATCH(rope_chunk)(call, begin, end);
  });
}

}  // namespace

const RopeFrequencies& cached_frequencies(const RopeSpec& rope, int dim) {
  struct Cache {
    RopeSpec rope;
    int dim = 0;
    RopeFrequencies frequencies;
  };
  thread_local Cache cache;
  if (cache.dim != dim || !(cache.rope == rope)) {
    cache.frequencies = rope_frequencies(rope, dim);
    cache.rope = rope;
    cache.dim = dim;
  }
  return cache.frequencies;
}

RopeAxes axes_of_pairs(const RopeSections& sections, std::size_t pairs) {
  int axes = 0;  // up to the last that turns a pair
  std::int64_t sum = 0;
  for (int axis = 0; axis < RopeSections::kMaxAxes; ++axis) {
    const int count = sections.pairs[static_cast<std::size_t>(axis)];
    require(count >= 0, "sections.pairs[{}] is {}: it must not be negative", axis, count);
    if (count > 0) axes = axis + 1;
    sum += count;
  }
  RopeAxes result{std::max(axes, 1), std::vector<std::uint8_t>(pairs, 0)};
  if (axes == 0) return result;
  require(sum == static_cast<std::int64_t>(pairs),
          "sections.pairs sum to {}: they must sum to the rotated pairs of a head, {}", sum, pairs);
  const auto count_of = [&](int axis) { return sections.pairs[static_cast<std::size_t>(axis)]; };
  if (sections.interleaved) {
    for (std::size_t i = 0; i < pairs; ++i) {
      const int axis = static_cast<int>(i) % axes;
      if (static_cast<int>(i) < axes * count_of(axis))
        result.of_pair[i] = static_cast<std::uint8_t>(axis);
    }
    return result;
  }
  auto to = result.of_pair.begin();
  for (int axis = 0; axis < axes; ++axis) {
    to = std::fill_n(to, count_of(axis), static_cast<std::uint8_t>(axis));
  }
  return result;
}

TensorView positions_of_axes(const TensorView& positions, int axes, std::int64_t tokens,
                             Device device) {
  require_rank("positions", positions, {1, 2});
  require_dtype("positions", positions, {DType::i32, DType::i64});
  require_device("positions", positions, device);
  if (axes == 1 && positions.rank == 1) {
    require_shape("positions", positions, {tokens});
    return positions.unsqueeze(0);
  }
  require_shape("positions", positions, {axes, tokens});
  return positions;
}

std::int64_t check_cos_sin_cache(const TensorView& cos_sin_cache, std::int64_t head_dim,
                                 Device device) {
  require_operand("cos_sin_cache", cos_sin_cache, {2}, device);
  const std::int64_t dim = cos_sin_cache.shape[1];
  require(dim % 2 == 0 && dim >= 2 && dim <= head_dim,
          "cos_sin_cache is {}: its last dimension must be even and in [2, {}], the head's",
          cos_sin_cache, head_dim);
  return dim;
}

void check_positions_in_table(const TensorView& positions, const TensorView& cos_sin_cache) {
  for (std::int64_t axis = 0; axis < positions.shape[0]; ++axis) {
    for (std::int64_t token = 0; token < positions.shape[1]; ++token) {
      const std::int64_t position =
          load_integer(positions.data, positions.dtype,
                       axis * positions.strides[0] + token * positions.strides[1]);
      require(position >= 0 && position < cos_sin_cache.shape[0],
              "positions has {} for token {}: it must be in [0, {}), the rows of cos_sin_cache",
              position, token, cos_sin_cache.shape[0]);
    }
  }
}

void apply_rope(const TensorView& x, const TensorView& positions, const TensorView& out,
                const RopeSpec& rope, const RopeSections& sections, Stream stream) {
  check_tensors(x, out);
  check_rope(rope);
  const int dim = rope_dim(rope, x.shape[2]);
  const std::size_t pairs = static_cast<std::size_t>(dim) / 2;
  const RopeAxes axes = axes_of_pairs(sections, pairs);
  const TensorView of_axes = positions_of_axes(positions, axes.count, x.shape[0], x.device);
  const RopeFrequencies& frequencies = cached_frequencies(rope, dim);
  if (on_cuda(x.device)) {
    const RopeTurns turns{
        frequencies.values, frequencies.amplitude, {}, axes.of_pair, rope.interleaved};
    run_on_cuda(rope_launch(x, of_axes, out, turns), x.device, stream);
    return;
  }
  rotate({Rows(x), Rows(out), of_axes, TensorView(), &frequencies, axes.of_pair.data(), pairs,
          rope.interleaved});
}

void apply_rope_with_cos_sin_cache(const TensorView& x, const TensorView& positions,
                                   const TensorView& cos_sin_cache, const TensorView& out,
                                   bool interleaved, const RopeSections& sections, Stream stream) {
  check_tensors(x, out);
  const std::int64_t dim = check_cos_sin_cache(cos_sin_cache, x.shape[2], x.device);
  const std::size_t pairs = static_cast<std::size_t>(dim) / 2;
  const RopeAxes axes = axes_of_pairs(sections, pairs);
  const TensorView of_axes = positions_of_axes(positions, axes.count, x.shape[0], x.device);
  if (on_cuda(x.device)) {
    const RopeTurns turns{{}, 1, cos_sin_cache, axes.of_pair, interleaved};
    run_on_cuda(rope_launch(x, of_axes, out, turns), x.device, stream);
    return;
  }
  const RopeCall call{Rows(x), Rows(out),           of_axes, cos_sin_cache,
                      nullptr, axes.of_pair.data(), pairs,   interleaved};
  check_positions_in_table(of_axes, cos_sin_cache);
  rotate(call);
}

}  // namespace tilewright
#endif  // HWY_ONCE
