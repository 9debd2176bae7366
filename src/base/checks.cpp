// SPDX-License-Identifier: Apache-2.0
#include "base/checks.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <vector>

namespace tilewright {
namespace {

template <typename T, typename Name>
std::string one_of(std::initializer_list<T> choices, Name name) {
  std::string text;
  std::size_t i = 0;
  for (const T& choice : choices) {
    if (i > 0) text += i + 1 == choices.size() ? " or " : ", ";
    text += name(choice);
    ++i;
  }
  return text;
}

std::string shape_text(std::initializer_list<std::int64_t> shape) {
  std::vector<std::string> extents;
  for (const std::int64_t extent : shape) {
    extents.push_back(extent < 0 ? "any" : std::to_string(extent));
  }
  return fmt::format("[{}]", fmt::join(extents, ", "));
}

}  // namespace

void raise_formatted(ErrorCode code, fmt::string_view format, fmt::format_args args) {
  throw Error(code, fmt::vformat(format, args));
}

void require_defined(std::string_view name, const TensorView& tensor) {
  require(tensor.defined(), "{} is missing: a tensor is needed", name);
  require(tensor.data != nullptr || tensor.numel() == 0, "{} is {} with a null pointer", name,
          tensor);
}

void require_rank(std::string_view name, const TensorView& tensor,
                  std::initializer_list<int> ranks) {
  require_defined(name, tensor);
  if (std::find(ranks.begin(), ranks.end(), tensor.rank) != ranks.end()) return;
  raise(ErrorCode::invalid_argument, "{} is {}: its rank must be {}", name, tensor,
        one_of(ranks, [](int rank) { return std::to_string(rank); }));
}

void require_dtype(std::string_view name, const TensorView& tensor,
                   std::initializer_list<DType> dtypes) {
  if (std::find(dtypes.begin(), dtypes.end(), tensor.dtype) != dtypes.end()) return;
  raise(ErrorCode::invalid_argument, "{} is {}: its dtype must be {}", name, tensor,
        one_of(dtypes, [](DType dtype) { return std::string(dtype_name(dtype)); }));
}

void require_device(std::string_view name, const TensorView& tensor, Device device) {
  require(tensor.device == device, "{} is {}: it must be on {}", name, tensor, device);
}

void require_last_dim_contiguous(std::string_view name, const TensorView& tensor) {
  require(tensor.last_dim_contiguous(), "{} is {}: its last dimension must be contiguous", name,
          tensor);
}

void require_shape(std::string_view name, const TensorView& tensor,
                   std::initializer_list<std::int64_t> shape) {
  require_defined(name, tensor);
  if (tensor.rank != static_cast<int>(shape.size())) {
    raise(ErrorCode::invalid_argument, "{} is {}: its rank must be {}, its shape {}", name, tensor,
          shape.size(), shape_text(shape));
  }
  std::size_t dim = 0;
  for (const std::int64_t extent : shape) {
    if (extent >= 0 && tensor.shape[dim] != extent) {
      raise(ErrorCode::invalid_argument, "{} is {}: its shape must be {}", name, tensor,
            shape_text(shape));
    }
    ++dim;
  }
}

void require_writable(std::string_view name, const TensorView& tensor) {
  // Sorted by stride, each dimension must step over all that the smaller ones span.
  std::array<int, TensorView::kMaxRank> order{};
  int count = 0;
  for (int dim = 0; dim < tensor.rank; ++dim) {
    if (tensor.shape[dim] <= 1) continue;
    int place = count++;
    for (; place > 0 && tensor.strides[order[place - 1]] > tensor.strides[dim]; --place) {
      order[place] = order[place - 1];
    }
    order[place] = dim;
  }
  std::int64_t span = 1;
  for (int i = 0; i < count; ++i) {
    const int dim = order[i];
    require(tensor.numel() == 0 || tensor.strides[dim] >= span,
            "{} is {}: it is written, so its elements must not overlap", name, tensor);
    span += (tensor.shape[dim] - 1) * tensor.strides[dim];
  }
}

}  // namespace tilewright
