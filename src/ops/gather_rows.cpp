// SPDX-License-Identifier: Apache-2.0
// Rows of a table by their indices.
#include <tilewright/ops.h>

#include <cstring>

#include "base/element.h"
#include "base/numeric.h"
#include "ops/cuda_run.h"
#include "ops/op_common.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/gather_rows.cpp"  // NOLINT(bugprone-suspicious-include)
#include <hwy/foreach_target.h>
// After foreach_target.h.
#include <hwy/highway.h>

#include "base/simd_io-inl.h"

#ifndef TILEWRIGHT_OPS_GATHER_CALL
#define TILEWRIGHT_OPS_GATHER_CALL
namespace tilewright {
namespace {

struct GatherCall {
  Rows x;
  TensorView indices;
  Rows out;

  std::int64_t index(std::int64_t row) const {
    return load_integer(indices.data, indices.dtype, row * indices.strides[0]);
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

void convert_chunk(const GatherCall& call, std::int64_t begin, std::int64_t end) {
  visit_wide_floats(call.x.dtype, call.out.dtype, [&](auto from, auto to) {
    const hn::ScalableTag<float> d;
    for (std::int64_t r = begin; r < end; ++r) {
      const auto* x = call.x.row<decltype(from)>(call.index(r));
      auto* out = call.out.row<decltype(to)>(r);
      for_lanes(d, call.out.dim, [&](std::size_t i, auto part) HWY_ATTR {
        store(d, load(d, x + i, part), out + i, part);
      });
    }
  });
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace tilewright
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tilewright {
namespace {

HWY_EXPORT(convert_chunk);

// Rows of one dtype, whatever their bits mean.
void copy_chunk(const GatherCall& call, std::int64_t begin, std::int64_t end) {
  const auto bytes = static_cast<std::int64_t>(dtype_bytes(call.x.dtype));
  const std::size_t row_bytes = call.out.dim * static_cast<std::size_t>(bytes);
  for (std::int64_t r = begin; r < end; ++r) {
    std::memcpy(call.out.data + r * call.out.inner_stride * bytes,
                call.x.data + call.index(r) * call.x.inner_stride * bytes, row_bytes);
  }
}

void check_gather(const TensorView& x, const TensorView& indices, const TensorView& out) {
  require_rank("x", x, {2});
  require_dtype("x", x, {DType::f32, DType::f16, DType::bf16, DType::i32});
  require_last_dim_contiguous("x", x);
  require_rank("indices", indices, {1});
  require_dtype("indices", indices, {DType::i32, DType::i64});
  require_device("indices", indices, x.device);
  require_rank("out", out, {2});
  if (x.dtype == DType::i32) {
    require_dtype("out", out, {DType::i32});
  } else {
    require_dtype("out", out, {DType::f32, DType::f16, DType::bf16});
  }
  require_last_dim_contiguous("out", out);
  require_device("out", out, x.device);
  require_shape("out", out, {indices.shape[0], x.shape[1]});
  require_writable("out", out);
  require_apart("out", out, "x", x);
  require_apart("out", out, "indices", indices);
}

}  // namespace

void gather_rows(const TensorView& x, const TensorView& indices, const TensorView& out,
                 Stream stream) {
  check_gather(x, indices, out);
  if (on_cuda(x.device)) {
    run_on_cuda(gather_rows_launch(x, indices, out), x.device, stream);
    return;
  }
  const GatherCall call{Rows(x), indices, Rows(out)};
  for (std::int64_t i = 0; i < indices.shape[0]; ++i) {
    const std::int64_t index = call.index(i);
    require(index >= 0 && index < x.shape[0],
            "indices[{}] is {}: it must be at least 0 and below {}, the rows of x", i, index,
            x.shape[0]);
  }
  if (out.numel() == 0) return;
  parallel_items(out.shape[0], out.shape[1], [&](std::int64_t begin, std::int64_t end) {
    if (x.dtype == out.dtype) {
      copy_chunk(call, begin, end);
    } else {
      HWY_DYNAMIC_DISPATCH(convert_chunk)(call, begin, end);
    }
  });
}

}  // namespace tilewright
#endif  // HWY_ONCE
