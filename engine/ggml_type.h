// SPDX-License-Identifier: Apache-2.0
// The element types of GGUF tensors and how their blocks are laid out in bytes.
#pragma once

#include <cstdint>
#include <string_view>

namespace tilewright::engine {

// The types this engine can read; a file may hold others, known by name and size only.
enum class GgmlType : std::uint32_t {
  f32 = 0,
  f16 = 1,
  q4_0 = 2,
  q4_1 = 3,
  q8_0 = 8,
  q4_k = 12,
  q5_k = 13,
  q6_k = 14,
  bf16 = 30,
};

struct GgmlTypeInfo {
  GgmlType type;
  std::string_view name;
  std::int64_t block_elements;
  std::int64_t block_bytes;
};

// nullptr when the number is no type of ggml that is known here.
const GgmlTypeInfo* find_ggml_type(std::uint32_t number);

}  // namespace tilewright::engine
