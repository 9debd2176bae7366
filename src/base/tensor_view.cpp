// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <tilewright/tensor_view.h>

#include "base/checks.h"

namespace tilewright {

int dtype_bytes(DType dtype) {
  switch (dtype) {
    case DType::f32:
    case DType::i32:
      return 4;
    case DType::f16:
    case DType::bf16:
      return 2;
    case DType::f8e4m3:
    case DType::f8e5m2:
    case DType::i8:
    case DType::u8:
      return 1;
    case DType::i64:
      return 8;
  }
  raise(ErrorCode::invalid_argument, "dtype is {}: it must be one of DType",
        static_cast<int>(dtype));
}

const char* dtype_name(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return "float32";
    case DType::f16:
      return "float16";
    case DType::bf16:
      return "bfloat16";
    case DType::f8e4m3:
      return "float8_e4m3fn";
    case DType::f8e5m2:
      return "float8_e5m2";
    case DType::i8:
      return "int8";
    case DType::i32:
      return "int32";
    case DType::i64:
      return "int64";
    case DType::u8:
      return "uint8";
  }
  return "unknown dtype";
}

std::string device_name(Device device) {
  return device.type == DeviceType::cpu ? "cpu" : fmt::format("cuda:{}", device.index);
}

TensorView::TensorView(const void* pointer, DType type, std::initializer_list<std::int64_t> extents,
                       Device where)
    : TensorView(pointer, type, extents, extents, where) {
  std::int64_t stride = 1;
  for (int dim = rank - 1; dim >= 0; --dim) {
    strides[dim] = stride;
    stride *= shape[dim];
  }
}

TensorView::TensorView(const void* pointer, DType type, std::initializer_list<std::int64_t> extents,
                       std::initializer_list<std::int64_t> steps, Device where)
    : data(const_cast<void*>(pointer)), dtype(type), device(where) {
  require(extents.size() <= kMaxRank, "a tensor's rank is {}: it must be at most {}",
          extents.size(), kMaxRank);
  require(extents.size() == steps.size(), "a tensor has {} extents and {} strides: one each",
          extents.size(), steps.size());
  rank = static_cast<int>(extents.size());
  std::copy(extents.begin(), extents.end(), shape.begin());
  std::copy(steps.begin(), steps.end(), strides.begin());
  for (int dim = 0; dim < rank; ++dim) {
    require(shape[dim] >= 0, "a tensor's extent {} is {}: it must not be negative", dim,
            shape[dim]);
  }
}

std::int64_t TensorView::numel() const {
  if (rank == 0) return 0;
  std::int64_t count = 1;
  for (int dim = 0; dim < rank; ++dim) count *= shape[dim];
  return count;
}

bool TensorView::is_contiguous() const {
  std::uint64_t stride = 1;  // may wrap: messages describe tensors that no memory holds
  for (int dim = rank - 1; dim >= 0; --dim) {
    if (shape[dim] != 1 && static_cast<std::uint64_t>(strides[dim]) != stride) return false;
    stride *= static_cast<std::uint64_t>(shape[dim]);
  }
  return true;
}

bool TensorView::last_dim_contiguous() const {
  return rank == 0 || shape[rank - 1] <= 1 || strides[rank - 1] == 1;
}

namespace {

void require_dim(const TensorView& view, int dim) {
  require(dim >= 0 && dim < view.rank, "dim is {}: it must be in [0, {}) for {}", dim, view.rank,
          view);
}

std::byte* advance(const TensorView& view, std::int64_t elements) {
  return static_cast<std::byte*>(view.data) + elements * dtype_bytes(view.dtype);
}

}  // namespace

TensorView TensorView::slice(int dim, std::int64_t begin, std::int64_t end) const {
  require_dim(*this, dim);
  require(0 <= begin && begin <= end && end <= shape[dim],
          "slice [{}, {}) of dim {} is out of range for {}", begin, end, dim, *this);
  TensorView view = *this;
  view.shape[dim] = end - begin;
  if (numel() > 0) view.data = advance(*this, begin * strides[dim]);
  return view;
}

TensorView TensorView::select(int dim, std::int64_t index) const {
  require_dim(*this, dim);
  require(0 <= index && index < shape[dim], "index {} of dim {} is out of range for {}", index, dim,
          *this);
  TensorView view = slice(dim, index, index + 1);
  for (int d = dim; d + 1 < rank; ++d) {
    view.shape[d] = view.shape[d + 1];
    view.strides[d] = view.strides[d + 1];
  }
  --view.rank;
  return view;
}

TensorView TensorView::transpose(int dim0, int dim1) const {
  require_dim(*this, dim0);
  require_dim(*this, dim1);
  TensorView view = *this;
  std::swap(view.shape[dim0], view.shape[dim1]);
  std::swap(view.strides[dim0], view.strides[dim1]);
  return view;
}

TensorView TensorView::unsqueeze(int dim) const {
  require(dim >= 0 && dim <= rank && rank < kMaxRank, "cannot insert dim {} into {}", dim, *this);
  TensorView view = *this;
  for (int d = rank; d > dim; --d) {
    view.shape[d] = shape[d - 1];
    view.strides[d] = strides[d - 1];
  }
  view.shape[dim] = 1;
  view.strides[dim] = dim < rank ? shape[dim] * strides[dim] : 1;
  ++view.rank;
  return view;
}

std::string TensorView::describe() const {
  if (!defined()) return "no tensor";
  auto list = [this](const auto& values) {
    return fmt::format("[{}]", fmt::join(values.begin(), values.begin() + rank, ", "));
  };
  std::string text = fmt::format("{}{}", dtype_name(dtype), list(shape));
  if (!is_contiguous()) text += fmt::format(" strides {}", list(strides));
  if (device.type != DeviceType::cpu) text += " on " + device_name(device);
  return text;
}

}  // namespace tilewright
