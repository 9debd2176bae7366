// SPDX-License-Identifier: Apache-2.0
// Tensors that own their memory: any dtype, any strides, and every byte that is not an element
// known, so that reads and writes outside of the elements show.
#pragma once

#include <tilewright/tensor_view.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <initializer_list>
#include <memory>
#include <new>
#include <numeric>
#include <vector>

#include "base/numeric.h"

namespace tilewright::test {

using Extents = std::vector<std::int64_t>;

inline constexpr std::uint8_t kPoison = 0xFF;  // NaN in every floating-point dtype, -1 in integers
inline constexpr std::uint8_t kSentinel = 0xA5;  // of outputs: no kernel writes it by chance
inline constexpr std::size_t kGuardBytes = 512;  // before and behind the elements

// Strides of a tensor whose dimensions lie in memory in `order` (outermost first), with `gap`
// elements that belong to nobody behind each run of every dimension but the innermost.
inline Extents strides_in_order(const Extents& shape, const std::vector<int>& order,
                                std::int64_t gap = 0) {
  Extents strides(shape.size());
  std::int64_t step = 1;
  for (std::size_t i = order.size(); i-- > 0;) {
    strides[order[i]] = step;
    step = step * shape[order[i]] + (i > 0 ? gap : 0);
  }
  return strides;
}

inline Extents row_major(const Extents& shape, std::int64_t gap = 0) {
  std::vector<int> order(shape.size());
  std::iota(order.begin(), order.end(), 0);
  return strides_in_order(shape, order, gap);
}

class Tensor {
 public:
  Tensor() = default;
  // `shift` elements move the first element away from its 256-byte alignment.
  Tensor(DType dtype, Extents shape, Extents strides, std::uint8_t fill = kPoison, int shift = 0)
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
  Tensor(DType dtype, const Extents& shape) : Tensor(dtype, shape, row_major(shape)) {}

  bool defined() const { return storage_ != nullptr; }
  const Extents& shape() const { return shape_; }
  std::uint8_t* data() { return data_; }
  // All memory, guards included.
  std::uint8_t* storage() { return storage_.get(); }
  std::size_t storage_bytes() const { return bytes_; }

  // An undefined tensor gives "no tensor".
  TensorView view() const {
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

  std::int64_t offset(std::initializer_list<std::int64_t> index) const {
    std::int64_t sum = 0;
    std::size_t dim = 0;
    for (const std::int64_t i : index) sum += i * strides_[dim++];
    return sum;
  }

  double get(std::initializer_list<std::int64_t> index) const {
    if (!is_floating_point(dtype_)) {
      return static_cast<double>(load_integer(data_, dtype_, offset(index)));
    }
    return load_element(data_, dtype_, offset(index));
  }

  void set(std::initializer_list<std::int64_t> index, double value) {
    const std::int64_t at = offset(index);
    if (dtype_ == DType::i32) {
      reinterpret_cast<std::int32_t*>(data_)[at] = static_cast<std::int32_t>(value);
    } else if (dtype_ == DType::u8) {
      data_[at] = static_cast<std::uint8_t>(value);
    } else if (dtype_ == DType::i64) {
      reinterpret_cast<std::int64_t*>(data_)[at] = static_cast<std::int64_t>(value);
    } else {
      store_element(data_, dtype_, at, static_cast<float>(value));
    }
  }

  // Neighbouring elements of the last dimension from `index` on (its last entry is 0).
  void set_row(std::initializer_list<std::int64_t> index, const double* values,
               std::int64_t count) {
    const std::int64_t at = offset(index);
    for (std::int64_t i = 0; i < count; ++i) {
      store_element(data_, dtype_, at + i, static_cast<float>(values[i]));
    }
  }

  // Whether an element still has the byte it was filled with at the start.
  bool untouched(std::initializer_list<std::int64_t> index) const {
    const std::uint8_t* bytes = data_ + offset(index) * element_bytes();
    for (std::int64_t i = 0; i < element_bytes(); ++i) {
      if (bytes[i] != fill_) return false;
    }
    return true;
  }

  // Whether every byte that is not an element is as it was at the start.
  bool guards_intact() const {
    std::vector<bool> owned(bytes_, false);
    mark_owned(owned, 0, data_ - storage_.get());
    for (std::size_t i = 0; i < bytes_; ++i) {
      if (!owned[i] && storage_.get()[i] != fill_) return false;
    }
    return true;
  }

  void refill() { std::memset(storage_.get(), fill_, bytes_); }
  std::vector<std::uint8_t> snapshot() const { return {storage_.get(), storage_.get() + bytes_}; }

 private:
  struct Free {
    void operator()(std::uint8_t* p) const { std::free(p); }
  };

  std::int64_t element_bytes() const { return dtype_bytes(dtype_); }

  void mark_owned(std::vector<bool>& owned, std::size_t dim, std::int64_t byte) const {
    if (dim == shape_.size()) {
      for (std::int64_t i = 0; i < element_bytes(); ++i) owned[byte + i] = true;
      return;
    }
    for (std::int64_t i = 0; i < shape_[dim]; ++i) {
      mark_owned(owned, dim + 1, byte + i * strides_[dim] * element_bytes());
    }
  }

  DType dtype_ = DType::f32;
  Extents shape_;
  Extents strides_;
  std::uint8_t fill_ = kPoison;
  std::size_t bytes_ = 0;
  std::unique_ptr<std::uint8_t, Free> storage_;
  std::uint8_t* data_ = nullptr;
};

// i32 tensors from values; `gap` poisoned entries stand behind each row of a matrix.
inline Tensor int_tensor(const Extents& values) {
  Tensor tensor(DType::i32, {static_cast<std::int64_t>(values.size())});
  for (std::size_t i = 0; i < values.size(); ++i) {
    tensor.set({static_cast<std::int64_t>(i)}, static_cast<double>(values[i]));
  }
  return tensor;
}

inline Tensor int_matrix(std::int64_t rows, std::int64_t columns, std::int64_t gap = 0) {
  return {DType::i32, {rows, columns}, {columns + gap, 1}};
}

inline Tensor float_tensor(const std::vector<double>& values) {
  Tensor tensor(DType::f32, {static_cast<std::int64_t>(values.size())});
  tensor.set_row({0}, values.data(), static_cast<std::int64_t>(values.size()));
  return tensor;
}

// The value that is left when it is stored as `dtype`.
inline double rounded(double value, DType dtype) {
  std::uint32_t bits = 0;
  store_element(&bits, dtype, 0, static_cast<float>(value));
  return load_element(&bits, dtype, 0);
}

}  // namespace tilewright::test
