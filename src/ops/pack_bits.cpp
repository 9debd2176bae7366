// SPDX-License-Identifier: Apache-2.0
// Bytes that are 0 or not into bits.
#include <tilewright/ops.h>

#include <algorithm>

#include "base/numeric.h"
#include "ops/cuda_run.h"
#include "ops/op_common.h"

namespace tilewright {
namespace {

constexpr std::int64_t kBitsOfByte = 8;

std::int64_t bytes_of(std::int64_t bits) {
  return (bits + kBitsOfByte - 1) / kBitsOfByte;
}

// Of `count` elements, the last byte's missing ones are 0.
void pack(const std::uint8_t* from, std::int64_t count, BitOrder order, std::uint8_t* to) {
  const unsigned flip = order == BitOrder::little ? 0 : 7;
  for (std::int64_t begin = 0; begin < count; begin += kBitsOfByte) {
    const auto present = static_cast<unsigned>(std::min(kBitsOfByte, count - begin));
    unsigned bits = 0;
    for (unsigned i = 0; i < present; ++i) bits |= (from[begin + i] != 0 ? 1U : 0U) << (i ^ flip);
    to[begin / kBitsOfByte] = static_cast<std::uint8_t>(bits);
  }
}

void require_bytes(std::string_view name, const TensorView& tensor,
                   std::initializer_list<int> ranks, Device device) {
  require_rank(name, tensor, ranks);
  require_dtype(name, tensor, {DType::u8});
  require_last_dim_contiguous(name, tensor);
  require_device(name, tensor, device);
}

void check_order(BitOrder order) {
  require(order == BitOrder::big || order == BitOrder::little,
          "order is {}: it must be big or little", static_cast<int>(order));
}

void check_indptrs(const TensorView& indptr, const TensorView& out_indptr, Device device) {
  require_rank("indptr", indptr, {1});
  require_dtype("indptr", indptr, {DType::i32, DType::i64});
  require_device("indptr", indptr, device);
  require(indptr.shape[0] >= 1, "indptr is {}: it must have an entry more than segments", indptr);
  require_rank("out_indptr", out_indptr, {1});
  require_dtype("out_indptr", out_indptr, {DType::i32, DType::i64});
  require_device("out_indptr", out_indptr, device);
  require_shape("out_indptr", out_indptr, {indptr.shape[0]});
  require_writable("out_indptr", out_indptr);
  require_apart("out_indptr", out_indptr, "indptr", indptr);
}

std::int64_t bound_of(const TensorView& indptr, std::int64_t at) {
  return load_integer(indptr.data, indptr.dtype, at * indptr.strides[0]);
}

void store_integer(const TensorView& tensor, std::int64_t at, std::int64_t value) {
  if (tensor.dtype == DType::i64) {
    static_cast<std::int64_t*>(tensor.data)[at * tensor.strides[0]] = value;
  } else {
    static_cast<std::int32_t*>(tensor.data)[at * tensor.strides[0]] =
        static_cast<std::int32_t>(value);
  }
}

// The bytes of all segments; their bounds are right.
std::int64_t check_bounds(const TensorView& indptr, std::int64_t elements) {
  std::int64_t last = 0;
  std::int64_t bytes = 0;
  for (std::int64_t i = 0; i < indptr.shape[0]; ++i) {
    const std::int64_t bound = bound_of(indptr, i);
    require(bound >= last && bound <= elements,
            "indptr[{}] is {}: it must ascend from at least 0 to at most {}, the elements of x", i,
            bound, elements);
    if (i > 0) bytes += bytes_of(bound - last);
    last = bound;
  }
  return bytes;
}

}  // namespace

void pack_bits(const TensorView& x, const TensorView& out, BitOrder order, Stream stream) {
  require_bytes("x", x, {1, 2}, x.device);
  require_bytes("out", out, {x.rank}, x.device);
  const std::int64_t columns = x.shape[x.rank - 1];
  if (x.rank == 1) {
    require_shape("out", out, {bytes_of(columns)});
  } else {
    require_shape("out", out, {x.shape[0], bytes_of(columns)});
  }
  require_writable("out", out);
  require_apart("out", out, "x", x);
  check_order(order);
  if (on_cuda(x.device)) {
    run_on_cuda(pack_bits_launch(x, out, order), x.device, stream);
    return;
  }
  const Rows from(x);
  const Rows to(out);
  if (x.rank == 1) {
    parallel_items(out.shape[0], kBitsOfByte, [&](std::int64_t begin, std::int64_t end) {
      const std::int64_t first = begin * kBitsOfByte;
      pack(from.row<std::uint8_t>(0) + first, std::min(columns, end * kBitsOfByte) - first, order,
           to.row<std::uint8_t>(0) + begin);
    });
    return;
  }
  parallel_items(from.count, columns, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      pack(from.row<std::uint8_t>(row), columns, order, to.row<std::uint8_t>(row));
    }
  });
}

void segment_pack_bits(const TensorView& x, const TensorView& indptr, const TensorView& out,
                       const TensorView& out_indptr, BitOrder order, Stream stream) {
  require_bytes("x", x, {1}, x.device);
  require_bytes("out", out, {1}, x.device);
  require_writable("out", out);
  require_apart("out", out, "x", x);
  check_indptrs(indptr, out_indptr, x.device);
  check_order(order);
  if (on_cuda(x.device)) {
    run_on_cuda(segment_pack_bits_launch(x, indptr, out, out_indptr, order), x.device, stream);
    return;
  }
  const std::int64_t bytes = check_bounds(indptr, x.shape[0]);
  require(bytes <= out.shape[0], "out is {}: it must have room for {} bytes, those of the segments",
          out, bytes);
  const std::int64_t segments = indptr.shape[0] - 1;
  std::int64_t at = 0;
  for (std::int64_t i = 0; i < segments; ++i) {
    store_integer(out_indptr, i, at);
    at += bytes_of(bound_of(indptr, i + 1) - bound_of(indptr, i));
  }
  store_integer(out_indptr, segments, at);
  const auto* from = static_cast<const std::uint8_t*>(x.data);
  auto* to = static_cast<std::uint8_t*>(out.data);
  const std::int64_t each = x.shape[0] / std::max<std::int64_t>(1, segments);
  parallel_items(segments, each, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t first = bound_of(indptr, i);
      pack(from + first, bound_of(indptr, i + 1) - first, order, to + bound_of(out_indptr, i));
    }
  });
}

}  // namespace tilewright
