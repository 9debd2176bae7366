// SPDX-License-Identifier: Apache-2.0
#include "support/tensor.h"

#include <cstdlib>
#include <new>
#include <numeric>
#include <utility>

namespace tilewright::test {

Extents strides_in_order(const Extents& shape, const std::vector<int>& order, std::int64_t gap) {
  Extents strides(shape.size());
  std::int64_t step = 1;
  for (std::size_t i = order.size(); i-- > 0;) {
    strides[order[i]] = step;
    step = step * shape[order[i]] + (i > 0 ? gap : 0);
  }
  return strides;
}

Extents row_major(const Extents& shape, std::int64_t gap) {
  std::vector<int> order(shape.size());
  std::iota(order.begin(), order.end(), 0);
  return strides_in_order(shape, order, gap);
}

Tensor::Tensor(DType dtype, Extents shape, Extents strides, std::uint8_t fill, int shift)
    : dtype_(dtype), shape_(std::move(shape)), strides_(std::move(strides)), fill_(fill) {
  std::int64_t last = 0;
  bool empty = false;
  for (std::size_t dim = 0; dim < shape_.size(); ++dim) {
    empty = empty || shape_[dim] == 0;
    last += (shape_[dim] - 1) * strides_[dim];
  }
  const std::int64_t elements = (empty ? 0 : last + 1) + shift;
  const std::size_t body = static_cast<std::size_t>(elements) * element_bytes();
  bytes_ = (body + 2 * kGuardBytes + 255) / 256 * 256;
  storage_.reset(static_cast<std::uint8_t*>(std::aligned_alloc(256, bytes_)));
  if (storage_ == nullptr) throw std::bad_alloc();
  std::memset(storage_.get(), fill, bytes_);
  data_ = storage_.get() + kGuardBytes + static_cast<std::size_t>(shift) * element_bytes();
}

TensorView Tensor::view() const {
  TensorView view;
  view.data = data_;
  view.dtype = dtype_;
  view.rank = static_cast<int>(shape_.size());
  for (std::size_t dim = 0; dim < shape_.size(); ++dim) {
    view.shape[dim] = shape_[dim];
    view.strides[dim] = strides_[dim];
  }
  return view;
}

bool Tensor::untouched(std::initializer_list<std::int64_t> index) const {
  const std::uint8_t* bytes = data_ + offset(index) * element_bytes();
  for (std::int64_t i = 0; i < element_bytes(); ++i) {
    if (bytes[i] != fill_) return false;
  }
  return true;
}

bool Tensor::guards_intact() const {
  std::vector<bool> owned(bytes_, false);
  mark_owned(owned, 0, data_ - storage_.get());
  for (std::size_t i = 0; i < bytes_; ++i) {
    if (!owned[i] && storage_.get()[i] != fill_) return false;
  }
  return true;
}

void Tensor::mark_owned(std::vector<bool>& owned, std::size_t dim, std::int64_t byte) const {
  if (dim == shape_.size()) {
    for (std::int64_t i = 0; i < element_bytes(); ++i) owned[byte + i] = true;
    return;
  }
  for (std::int64_t i = 0; i < shape_[dim]; ++i) {
    mark_owned(owned, dim + 1, byte + i * strides_[dim] * element_bytes());
  }
}

Tensor int_tensor(const Extents& values) {
  Tensor tensor(DType::i32, {static_cast<std::int64_t>(values.size())});
  for (std::size_t i = 0; i < values.size(); ++i) {
    tensor.set({static_cast<std::int64_t>(i)}, static_cast<double>(values[i]));
  }
  return tensor;
}

Tensor float_tensor(const std::vector<double>& values) {
  Tensor tensor(DType::f32, {static_cast<std::int64_t>(values.size())});
  tensor.set_row({0}, values.data(), static_cast<std::int64_t>(values.size()));
  return tensor;
}

}  // namespace tilewright::test
