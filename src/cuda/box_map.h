// SPDX-License-Identifier: Apache-2.0
// Descriptions of tensors for copies of boxes, which Hopper and later GPUs have (CUtensorMap).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace tilewright::cuda {

// Boxes of 64 elements by `box_tokens` tokens, at most 256, of one head in one page. Addresses and
// strides must be multiples of 16 bytes.
struct BoxTensor {
  const void* data;
  std::array<std::int64_t, 4> shape;    // elements of 16 bits, tokens, heads, pages
  std::array<std::int64_t, 4> strides;  // in bytes; elements lie side by side
  std::int64_t box_tokens;

  friend bool operator==(const BoxTensor&, const BoxTensor&) = default;
};

// Writes the 128 bytes, aligned to 64, that a kernel is given. False: the driver does not take the
// tensor (strides of 2^40 bytes or more, negative ones).
bool encode_box_map(const BoxTensor& tensor, void* map);

// encode_box_map, or what an emulator has for it.
using BoxEncoder = bool (*)(const BoxTensor& tensor, void* map);

// Descriptions by all that they are made of, so that the caches of a model's layers, which come
// again every step, are described once. It keeps the last kPlaces or so; memory that was freed and
// now holds another tensor has another description or an equal one. Not thread-safe. Allocates when
// it is made.
class BoxMaps {
 public:
  static constexpr std::size_t kPlaces = 512;  // 256 layers of K and V

  explicit BoxMaps(BoxEncoder encoder) : encode_(encoder), groups_(kPlaces / kGroup) {}

  // As the encoder; `tensor` has pages.
  bool write(const BoxTensor& tensor, void* map);

 private:
  static constexpr std::size_t kGroup = 8;
  struct Known {
    BoxTensor tensor{};  // without pages where there is none yet
    std::array<std::byte, 128> map{};
  };
  // Where a tensor may be: one of a few places, which are used in turn.
  struct Group {
    std::array<Known, kGroup> known;
    std::size_t next = 0;
  };

  BoxEncoder encode_;
  std::vector<Group> groups_;
};

}  // namespace tilewright::cuda
