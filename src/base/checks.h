// SPDX-License-Identifier: Apache-2.0
// Argument checks: one way to raise an Error that names the argument, its value and what it must
// be.
#pragma once

#include <fmt/format.h>
#include <tilewright/error.h>
#include <tilewright/tensor_view.h>

#include <initializer_list>
#include <string>
#include <string_view>

// Views are passed to messages as they are: text is made, and memory allocated, only when a check
// fails.
template <>
struct fmt::formatter<tilewright::TensorView> : fmt::formatter<std::string> {
  auto format(const tilewright::TensorView& view, fmt::format_context& context) const {
    return fmt::formatter<std::string>::format(view.describe(), context);
  }
};

template <>
struct fmt::formatter<tilewright::Device> : fmt::formatter<std::string> {
  auto format(tilewright::Device device, fmt::format_context& context) const {
    return fmt::formatter<std::string>::format(tilewright::device_name(device), context);
  }
};

namespace tilewright {

// Not in the header: a file that only checks its arguments then compiles none of fmt's code, which
// takes longer than the rest of it.
[[noreturn]] void raise_formatted(ErrorCode code, fmt::string_view format, fmt::format_args args);

template <typename... Args>
[[noreturn]] void raise(ErrorCode code, fmt::format_string<Args...> format, Args&&... args) {
  raise_formatted(code, format, fmt::make_format_args(args...));
}

// require(scale > 0, "scale is {}: it must be positive", scale)
template <typename... Args>
void require(bool condition, fmt::format_string<Args...> format, Args&&... args) {
  if (!condition) [[unlikely]] {
    raise(ErrorCode::invalid_argument, format, std::forward<Args>(args)...);
  }
}

// Checks of tensor arguments; `name` is the argument's name in messages.
void require_defined(std::string_view name, const TensorView& tensor);
void require_rank(std::string_view name, const TensorView& tensor,
                  std::initializer_list<int> ranks);
void require_dtype(std::string_view name, const TensorView& tensor,
                   std::initializer_list<DType> dtypes);
void require_device(std::string_view name, const TensorView& tensor, Device device);
void require_last_dim_contiguous(std::string_view name, const TensorView& tensor);
// -1 in `shape` accepts any extent; the rank must be that of `shape`.
void require_shape(std::string_view name, const TensorView& tensor,
                   std::initializer_list<std::int64_t> shape);
// Elements must not overlap: needed of tensors that are written.
void require_writable(std::string_view name, const TensorView& tensor);

}  // namespace tilewright
