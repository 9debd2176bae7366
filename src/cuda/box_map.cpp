// SPDX-License-Identifier: Apache-2.0
#include "cuda/box_map.h"

#include <algorithm>

#include "cuda/driver.h"

namespace tilewright::cuda {

bool encode_box_map(const BoxTensor& tensor, void* map) {
  // CUtensorMapDataType and the enumerations behind it.
  constexpr int kUint16 = 1;
  constexpr int kNoInterleave = 0;
  constexpr int kSwizzle128 = 3;
  constexpr int kL2Promotion128 = 2;
  constexpr int kZeros = 0;
  constexpr std::array<unsigned, 4> kElementStrides = {1, 1, 1, 1};
  const std::array<unsigned, 4> box = {64, static_cast<unsigned>(tensor.box_tokens), 1, 1};
  std::array<std::uint64_t, 4> shape{};
  std::array<std::uint64_t, 3> strides{};
  std::ranges::transform(tensor.shape, shape.begin(),
                         [](std::int64_t size) { return static_cast<std::uint64_t>(size); });
  for (std::size_t dim = 1; dim < 4; ++dim) {
    // The stride of one thing alone may be anything.
    strides[dim - 1] = tensor.shape[dim] > 1 ? static_cast<std::uint64_t>(tensor.strides[dim]) : 16;
  }
  return driver().tensor_map_encode_tiled(map, kUint16, 4, const_cast<void*>(tensor.data),
                                          shape.data(), strides.data(), box.data(),
                                          kElementStrides.data(), kNoInterleave, kSwizzle128,
                                          kL2Promotion128, kZeros) == kSuccess;
}

}  // namespace tilewright::cuda
