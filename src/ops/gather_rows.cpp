// SPDX-License-Identifier: Apache-2.0
// Rows of a table by their indices.
#include <tilewright/ops.h>

#include <algorithm>

#include "base/numeric.h"
#include "ops/cuda_launches.h"
#include "ops/cuda_run.h"
#include "ops/op_common.h"

namespace tilewright {
namespace {

void require_elements(std::string_view name, const TensorView& tensor, Device device) {
  require_rank(name, tensor, {2});
  require_dtype(name, tensor, {DType::f32, DType::f16, DType::bf16, DType::i32});
  require_last_dim_contiguous(name, tensor);
  require_device(name, tensor, device);
}

std::int64_t index_of(const TensorView& indices, std::int64_t row) {
  return load_integer(indices.data, indices.dtype, row * indices.strides[0]);
}

template <typename Body>
void for_rows(const TensorView& indices, const Rows& out, const Body& body) {
  parallel_items(out.count, static_cast<std::int64_t>(out.dim),
                 [&](std::int64_t begin, std::int64_t end) {
                   for (std::int64_t row = begin; row < end; ++row) {
                     body(row, index_of(indices, row));
                   }
                 });
}

void gather_on_cpu(const TensorView& x, const TensorView& indices, const TensorView& out) {
  for (std::int64_t i = 0; i < indices.shape[0]; ++i) {
    const std::int64_t index = index_of(indices, i);
    require(index >= 0 && index < x.shape[0], "indices[{}] is {}: it must be in [0, {})", i, index,
            x.shape[0]);
  }
  const Rows from(x);
  const Rows to(out);
  const auto dim = static_cast<std::ptrdiff_t>(to.dim);
  if (x.dtype == out.dtype) {
    const std::int64_t element = dtype_bytes(x.dtype);
    for_rows(indices, to, [&](std::int64_t row, std::int64_t index) {
      std::copy_n(from.data + index * from.inner_stride * element, dim * element,
                  to.data + row * to.inner_stride * element);
    });
    return;
  }
  for_rows(indices, to, [&](std::int64_t row, std::int64_t index) {
    for (std::ptrdiff_t i = 0; i < dim; ++i) {
      store_element(to.data, to.dtype, row * to.inner_stride + i,
                    load_element(from.data, from.dtype, index * from.inner_stride + i));
    }
  });
}

}  // namespace

void gather_rows(const TensorView& x, const TensorView& indices, const TensorView& out,
                 Stream stream) {
  require_elements("x", x, x.device);
  require_rank("indices", indices, {1});
  require_dtype("indices", indices, {DType::i32, DType::i64});
  require_device("indices", indices, x.device);
  require_elements("out", out, x.device);
  require_shape("out", out, {indices.shape[0], x.shape[1]});
  require((x.dtype == DType::i32) == (out.dtype == DType::i32),
          "out is {}: it must have x's dtype, {}, as integers are not converted", out,
          dtype_name(x.dtype));
  require_writable("out", out);
  require_apart("out", out, "x", x);
  if (on_cuda(x.device)) {
    run_on_cuda(gather_rows_launch(x, indices, out), x.device, stream);
    return;
  }
  gather_on_cpu(x, indices, out);
}

}  // namespace tilewright
