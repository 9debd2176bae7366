// SPDX-License-Identifier: Apache-2.0
// The usual read of a parameter by many lanes: all indices but the last are the same for each, so
// that the lanes lie on one line of the tensor.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "base/numeric.h"
#include "variant/bindings.h"

namespace tilewright {

struct ParamLine {
  const std::int32_t* indices = nullptr;  // along the last dimension, by lane
  std::int64_t step = 1;                  // 0: one index for all lanes
  std::int64_t lanes = 0;

  // `fixed` has the other indices. Reals become f32, integers i32; outside of the tensor 0. False:
  // the dtype is not one of those that are read here.
  bool read(const BoundParam& param, const std::int64_t* fixed, std::byte* out) const {
    switch (param.dtype) {
      case DType::f32:
        read_as<float>(param, fixed, reinterpret_cast<float*>(out));
        return true;
      case DType::bf16:
        read_as<Bf16>(param, fixed, reinterpret_cast<float*>(out));
        return true;
      case DType::i32:
        read_as<std::int32_t>(param, fixed, reinterpret_cast<std::int32_t*>(out));
        return true;
      case DType::u8:
        read_as<std::uint8_t>(param, fixed, reinterpret_cast<std::int32_t*>(out));
        return true;
      case DType::i8:
        read_as<std::int8_t>(param, fixed, reinterpret_cast<std::int32_t*>(out));
        return true;
      default:
        return false;
    }
  }

 private:
  struct Bf16 {
    std::uint16_t bits;
    explicit operator float() const { return bf16_to_f32(bits); }
  };

  template <typename T, typename Out>
  void read_as(const BoundParam& param, const std::int64_t* fixed, Out* out) const {
    const auto last = static_cast<std::size_t>(param.rank - 1);
    const std::int64_t stride = param.strides[last];
    std::int64_t extent = param.shape[last];
    std::int64_t offset = 0;
    for (std::size_t dim = 0; dim < last; ++dim) {
      if (fixed[dim] < 0 || fixed[dim] >= param.shape[dim]) extent = 0;
      offset += fixed[dim] * param.strides[dim];
    }
    if (extent == 0) {
      std::fill_n(out, lanes, Out{});
      return;
    }
    const T* from = static_cast<const T*>(param.data) + offset;
    if (step == 1 && stride == 1 && counts_up() && indices[0] >= 0 && indices[lanes - 1] < extent) {
      for (std::int64_t i = 0; i < lanes; ++i) out[i] = static_cast<Out>(from[indices[0] + i]);
      return;
    }
    for (std::int64_t i = 0; i < lanes; ++i) {
      const std::int64_t at = indices[i * step];
      out[i] = at >= 0 && at < extent ? static_cast<Out>(from[at * stride]) : Out{};
    }
  }

  bool counts_up() const {
    std::int64_t wrong = 0;
    for (std::int64_t i = 0; i < lanes; ++i) wrong |= indices[i] - indices[0] - i;
    return wrong == 0;
  }
};

}  // namespace tilewright
