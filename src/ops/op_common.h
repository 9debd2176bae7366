// SPDX-License-Identifier: Apache-2.0
// What the front ends of the operators share: checks, and rows of a tensor to work on.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "base/checks.h"
#include "base/parallel.h"

namespace tilewright {

// A floating-point operand on the call's device with a contiguous last dimension. The first
// operand's device is the call's.
inline void require_operand(std::string_view name, const TensorView& tensor,
                            std::initializer_list<int> ranks, Device device) {
  require_rank(name, tensor, ranks);
  require_dtype(name, tensor, {DType::f32, DType::f16, DType::bf16});
  require_last_dim_contiguous(name, tensor);
  require_device(name, tensor, device);
}

inline bool on_cuda(Device device) {
  return device.type == DeviceType::cuda;
}

inline void require_same_shape(std::string_view name, const TensorView& tensor,
                               std::string_view other_name, const TensorView& other) {
  bool same = tensor.rank == other.rank;
  for (int dim = 0; same && dim < tensor.rank; ++dim) same = tensor.shape[dim] == other.shape[dim];
  require(same, "{} is {}: it must have the shape of {}, {}", name, tensor, other_name, other);
}

// An output that starts where an input starts must be that input in place: same dtype and strides.
inline void require_in_place_or_apart(std::string_view name, const TensorView& out,
                                      std::string_view input_name, const TensorView& input) {
  if (out.data != input.data || out.numel() == 0) return;
  bool same = out.dtype == input.dtype && out.rank == input.rank;
  for (int dim = 0; same && dim < out.rank; ++dim) {
    same = out.shape[dim] <= 1 || out.strides[dim] == input.strides[dim];
  }
  require(same,
          "{} is {} and starts where {} does, {}: it must be the same tensor or apart from it",
          name, out, input_name, input);
}

inline void require_apart(std::string_view name, const TensorView& out, std::string_view input_name,
                          const TensorView& input) {
  require(out.data != input.data || out.numel() == 0 || input.numel() == 0,
          "{} is {} and starts where {} does: it must be apart from it", name, out, input_name);
}

// The rows of a tensor [.., dim] of rank 1 to 3, counted through its first dimensions.
struct Rows {
  std::byte* data = nullptr;
  DType dtype = DType::f32;
  std::int64_t count = 1;
  std::int64_t inner = 1;         // rows of the second to last dimension
  std::int64_t outer_stride = 0;  // in elements
  std::int64_t inner_stride = 0;
  std::size_t dim = 0;

  explicit Rows(const TensorView& tensor)
      : data(static_cast<std::byte*>(tensor.data)),
        dtype(tensor.dtype),
        dim(static_cast<std::size_t>(tensor.shape[tensor.rank - 1])) {
    if (tensor.rank >= 2) {
      inner = tensor.shape[tensor.rank - 2];
      inner_stride = tensor.strides[tensor.rank - 2];
    }
    count = inner;
    if (tensor.rank == 3) {
      count *= tensor.shape[0];
      outer_stride = tensor.strides[0];
    }
  }

  template <typename T>
  T* row(std::int64_t index) const {
    return reinterpret_cast<T*>(data) + (index / inner) * outer_stride +
           (index % inner) * inner_stride;
  }
};

// Items of `elements` elements each, in chunks that are worth a thread; a chunk's bounds do not
// depend on the number of threads.
template <typename Body>
void parallel_items(std::int64_t items, std::int64_t elements, const Body& body) {
  constexpr std::int64_t kElementsPerChunk = 16384;
  parallel_for(items,
               std::max<std::int64_t>(1, kElementsPerChunk / std::max<std::int64_t>(1, elements)),
               body);
}

}  // namespace tilewright
