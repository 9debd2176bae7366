// SPDX-License-Identifier: Apache-2.0
#include "cuda/box_map.h"

#include <algorithm>
#include <cstring>

#include "cuda/driver.h"

namespace tilewright::cuda {
namespace {

// Tensors of a model differ in addresses, or in strides.
std::uint64_t hash_of(const BoxTensor& tensor) {
  constexpr std::uint64_t kOdd = 0x9E3779B97F4A7C15;
  std::uint64_t hash = reinterpret_cast<std::uintptr_t>(tensor.data);
  hash = hash * kOdd + static_cast<std::uint64_t>(tensor.strides[3]);
  hash = hash * kOdd + static_cast<std::uint64_t>(tensor.shape[3]);
  return (hash * kOdd) >> 48;  // the bits that depend on most
}

}  // namespace

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

bool BoxMaps::write(const BoxTensor& tensor, void* map) {
  Group& group = groups_[hash_of(tensor) % groups_.size()];
  const auto found = std::find_if(group.known.begin(), group.known.end(),
                                  [&](const Known& known) { return known.tensor == tensor; });
  if (found != group.known.end()) {
    std::memcpy(map, found->map.data(), found->map.size());
    return true;
  }
  if (!encode_(tensor, map)) return false;
  Known& place = group.known[group.next];
  group.next = (group.next + 1) % kGroup;
  place.tensor = tensor;
  std::memcpy(place.map.data(), map, place.map.size());
  return true;
}

}  // namespace tilewright::cuda
