// SPDX-License-Identifier: Apache-2.0
// Products y = x W^T of so few rows that reading the weights bounds them. oneDNN's stay a third
// below what memory delivers there, and multiply bf16 weights at half the speed on some CPUs.
#pragma once

#include <tilewright/tensor_view.h>

#include <cstdint>
#include <vector>

namespace tilewright::engine {

// Weights as oneDNN packs them for AVX-512 (BA16a64b, BA16a64b2a): blocks of 64 columns, which are
// output features, one after the other; in a block [in, 64], and of bf16 [in / 2, 64, 2], two
// inputs side by side. Columns and inputs that fill up the last blocks are zeros.
struct PackedWeight {
  static constexpr std::int64_t kColumns = 64;

  const void* data = nullptr;
  DType dtype = DType::f32;  // or bf16
  std::int64_t block_bytes = 0;
  std::int64_t in = 0;
  std::int64_t out = 0;
  // Inputs whose products are summed by themselves, then added to the sum before them; even.
  std::int64_t summed_apart = 0;
};

constexpr std::int64_t kMostFewRows = 64;

// x [rows, in], y [rows, out], both contiguous; 1 to kMostFewRows rows. x has the dtype of the
// weights, or is bf16; y is f32 or bf16. Everything is widened to f32 and summed in the order of
// the inputs, so an element's bits depend on its own row alone. `widened` is memory to work in.
// Threads are OpenMP's: omp_get_max_threads().
void multiply_few_rows(std::int64_t rows, const void* x, DType x_dtype, const PackedWeight& weight,
                       void* y, DType y_dtype, std::vector<float>& widened);

}  // namespace tilewright::engine
