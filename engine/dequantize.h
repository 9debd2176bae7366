// SPDX-License-Identifier: Apache-2.0
// Tensor data of GGUF files to float: F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q4_K, Q5_K, Q6_K.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "engine/gguf.h"

namespace tilewright::engine {

// `data` holds whole blocks of `type` and `out` all their elements. Error (not_supported, naming
// the type) for a type that is not listed above, and when the sizes do not fit each other.
void dequantize(const GgmlTypeInfo& type, std::span<const std::byte> data, std::span<float> out);

// The whole tensor, row-major; by all OpenMP threads.
std::vector<float> dequantize(const GgufTensor& tensor);

// Row `row` of a matrix [rows, columns] into `out` [columns].
void dequantize_row(const GgufTensor& tensor, std::int64_t row, std::span<float> out);

}  // namespace tilewright::engine
