// SPDX-License-Identifier: Apache-2.0
// Descriptions of tensors for copies of boxes, which Hopper and later GPUs have (CUtensorMap).
#pragma once

#include <array>
#include <cstdint>

namespace tilewright::cuda {

// Boxes of 64 elements by `box_tokens` tokens, at most 256, of one head in one page. Addresses and
// strides must be multiples of 16 bytes.
struct BoxTensor {
  const void* data;
  std::array<std::int64_t, 4> shape;    // elements of 16 bits, tokens, heads, pages
  std::array<std::int64_t, 4> strides;  // in bytes; elements lie side by side
  std::int64_t box_tokens;
};

// Writes the 128 bytes, aligned to 64, that a kernel is given. False: the driver does not take the
// tensor (strides of 2^40 bytes or more, negative ones).
bool encode_box_map(const BoxTensor& tensor, void* map);

}  // namespace tilewright::cuda
