// SPDX-License-Identifier: Apache-2.0
// Linear layers y = x W^T by oneDNN, with weights packed once.
#pragma once

#include <tilewright/tensor_view.h>

#include <cstdint>
#include <memory>
#include <span>

namespace tilewright::engine {

// The compiled products that layers of one shape share, so that a row count seen by one layer is
// compiled for all of them. It must outlive its layers; one thread at a time may use them.
class MatmulCache {
 public:
  MatmulCache();
  ~MatmulCache();

  struct Impl;
  Impl& impl() { return *impl_; }

 private:
  std::unique_ptr<Impl> impl_;
};

enum class RowBlocks : std::uint8_t { any, fixed };

// Accumulates in f32. x has the dtype of the weights, f32 or bf16. Where the CPU has no bf16
// arithmetic (AVX512-BF16 or AMX), bf16 layers keep their rounded weights as f32 and convert x and
// y: twice the memory, the same rounding, and several times faster than oneDNN's emulation. Where
// bf16 products are slower than f32 ones (AVX512-BF16 on Intel's cores that have AMX, hidden by a
// virtual machine), bf16 layers compute in f32 too: less than 64 rows from the weights as they are,
// more from weights that are widened at each call.
//
// RowBlocks::any: rows beyond 64 are computed in blocks of 256, then 64, then the rest, so that at
// most 65 products are compiled for a shape. On AVX-512 less than 64 rows (8, where bf16 is fast)
// are multiply_few_rows's. With f32 on AVX-512 a row's bits depend neither on the other rows nor on
// the number of threads (measured with oneDNN 2.6, tested); in bf16 and on AVX2 they differ by
// rounding of the f32 sum.
//
// RowBlocks::fixed: a row's bits never depend on the others. All are multiply_few_rows's, or, where
// bf16 is fast, of one product of 32 rows, the last ones filled up with zeros, or, without AVX-512,
// of products of one row.
//
// Threads are OpenMP's: as many as omp_get_max_threads() says at the call.
class Linear {
 public:
  // weight is [out_features, in_features], row-major, and is not kept. Error when it does not have
  // that size, or a dtype is neither f32 nor bf16, or weight_dtype is f32 with out_dtype bf16.
  Linear(MatmulCache& cache, std::span<const float> weight, std::int64_t out_features,
         std::int64_t in_features, DType weight_dtype = DType::f32, DType out_dtype = DType::f32);
  ~Linear();
  Linear(Linear&&) noexcept;
  Linear& operator=(Linear&&) noexcept;

  // x [rows, in_features], y [rows, out_features], both contiguous and not overlapping; rows may be
  // 0.
  void run(std::int64_t rows, const void* x, void* y, RowBlocks blocks = RowBlocks::any) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Whether bf16 layers compute in bf16 on this machine, or by f32 as described above.
bool has_bf16_matmul();

}  // namespace tilewright::engine
