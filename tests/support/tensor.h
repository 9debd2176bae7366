// SPDX-License-Identifier: Apache-2.0
// Tensors that own their memory: any dtype, any strides, and every byte that is not an element
// known, so that reads and writes outside of the elements show.
#pragma once

#include <tilewright/tensor_view.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <memory>
#include <vector>

#include "base/numeric.h"

namespace tilewright::test {

using Extents = std::vector<std::int64_t>;

inline constexpr std::uint8_t kPoison = 0xFF;  // NaN in every floating-point dtype, -1 in integers
inline constexpr std::uint8_t kSentinel = 0xA5;  // of outputs: no kernel writes it by chance
inline constexpr std::size_t kGuardBytes = 512;  // before and behind the elements

// Strides of a tensor whose dimensions lie in memory in `order` (outermost first), with `gap`
// elements that belong to nobody behind each run of every dimension but the innermost.
Extents strides_in_order(const Extents& shape, const std::vector<int>& order, std::int64_t gap = 0);

Extents row_major(const Extents& shape, std::int64_t gap = 0);

class Tensor {
 public:
  Tensor() = default;
  // `shift` elements move the first element away from its 256-byte alignment.
  Tensor(DType dtype, Extents shape, Extents strides, std::uint8_t fill = kPoison, int shift = 0);
  Tensor(DType dtype, const Extents& shape) : Tensor(dtype, shape, row_major(shape)) {}

  bool defined() const { return storage_ != nullptr; }
  const Extents& shape() const { return shape_; }
  std::uint8_t* data() { return data_; }
  // All memory, guards included.
  std::uint8_t* storage() { return storage_.get(); }
  std::size_t storage_bytes() const { return bytes_; }

  // An undefined tensor gives "no tensor".
  TensorView view() const;

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
  bool untouched(std::initializer_list<std::int64_t> index) const;

  // Whether every byte that is not an element is as it was at the start.
  bool guards_intact() const;

  void refill() { std::memset(storage_.get(), fill_, bytes_); }
  std::vector<std::uint8_t> snapshot() const { return {storage_.get(), storage_.get() + bytes_}; }

 private:
  struct Free {
    void operator()(std::uint8_t* p) const { std::free(p); }
  };

  std::int64_t element_bytes() const { return dtype_bytes(dtype_); }

  void mark_owned(std::vector<bool>& owned, std::size_t dim, std::int64_t byte) const;

  DType dtype_ = DType::f32;
  Extents shape_;
  Extents strides_;
  std::uint8_t fill_ = kPoison;
  std::size_t bytes_ = 0;
  std::unique_ptr<std::uint8_t, Free> storage_;
  std::uint8_t* data_ = nullptr;
};

// i32 tensors from values; `gap` poisoned entries stand behind each row of a matrix.
Tensor int_tensor(const Extents& values);

inline Tensor int_matrix(std::int64_t rows, std::int64_t columns, std::int64_t gap = 0) {
  return {DType::i32, {rows, columns}, {columns + gap, 1}};
}

Tensor float_tensor(const std::vector<double>& values);

// The value that is left when it is stored as `dtype`.
inline double rounded(double value, DType dtype) {
  std::uint32_t bits = 0;
  store_element(&bits, dtype, 0, static_cast<float>(value));
  return load_element(&bits, dtype, 0);
}

}  // namespace tilewright::test
