// SPDX-License-Identifier: Apache-2.0
// The dtypes of DLPack 1.1, which nanobind names in part.
#pragma once

#include <nanobind/ndarray.h>
#include <tilewright/tensor_view.h>

#include <array>
#include <cstdint>
#include <optional>

namespace tilewright::python {

namespace nb = nanobind;

struct DlpackCode {
  DType dtype;
  std::uint8_t code;

  nb::dlpack::dtype type() const {
    return {code, static_cast<std::uint8_t>(8 * dtype_bytes(dtype)), 1};
  }
};

inline constexpr std::array<DlpackCode, 9> kDlpackCodes{{{DType::bf16, 4},
                                                         {DType::f32, 2},
                                                         {DType::f16, 2},
                                                         {DType::i32, 0},
                                                         {DType::f8e4m3, 10},
                                                         {DType::f8e5m2, 12},
                                                         {DType::i64, 0},
                                                         {DType::i8, 0},
                                                         {DType::u8, 1}}};

inline nb::dlpack::dtype dlpack_dtype(DType dtype) {
  for (const DlpackCode& known : kDlpackCodes) {
    if (known.dtype == dtype) return known.type();
  }
  return {};
}

// None for a dtype that the library does not have.
inline std::optional<DType> dtype_of_dlpack(nb::dlpack::dtype type) {
  for (const DlpackCode& known : kDlpackCodes) {
    if (known.type() == type) return known.dtype;
  }
  return std::nullopt;
}

}  // namespace tilewright::python
