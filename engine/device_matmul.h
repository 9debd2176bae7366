// SPDX-License-Identifier: Apache-2.0
// Matrix products y = x W^T on a GPU, by cuBLASLt.
#pragma once

#include <tilewright/tensor_view.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "engine/cublaslt.h"

namespace tilewright::engine {

struct MatmulShape {
  std::int64_t out_features = 0;
  std::int64_t in_features = 0;
  DType dtype = DType::f32;      // of x and W: f32 or bf16
  DType out_dtype = DType::f32;  // of y: f32, or that of x
};

// What cuBLASLt keeps for a GPU. Made, used and destroyed while the GPU's context is current; it
// must outlive the products that are made with it, which are all run on one stream, as they share
// the workspace.
class MatmulContext {
 public:
  // `workspace` is device memory of the caller's, aligned to 256 bytes. Error (device_error) when
  // cuBLASLt cannot be used.
  MatmulContext(CublasLt api, void* workspace, std::size_t workspace_bytes);
  MatmulContext(const MatmulContext&) = delete;
  MatmulContext& operator=(const MatmulContext&) = delete;

  const CublasLt& api() const { return api_; }
  CublasLt::Context* context() const { return context_.get(); }
  void* workspace() const { return workspace_; }
  std::size_t workspace_bytes() const { return workspace_bytes_; }
  // Error (device_error) that names the call unless `status` is success.
  void check(int status, const char* call) const;

 private:
  CublasLt api_;
  std::unique_ptr<CublasLt::Context, int (*)(CublasLt::Context*)> context_;
  void* workspace_;
  std::size_t workspace_bytes_;
};

// by_rows: the algorithm that cuBLASLt finds best for the number of rows; the bits of a row depend
// on that number. fixed: one algorithm for all numbers of rows, which adds up each element in one
// sum in the same order, wherever its row is: the bits of a row depend on nothing but the row.
// (cuBLASLt does not promise the latter of an algorithm; tests/gpu/matmul_gpu_test.cpp compares the
// rows.)
enum class MatmulChoice : std::uint8_t { by_rows, fixed };

// Products of one shape, with any weights. Accumulates in f32; f32 products are true f32 (no TF32).
// prepare() chooses the algorithm ahead, as it may not be done while a graph is captured.
class DeviceMatmul {
 public:
  // Error for features less than 1 and dtypes other than above.
  DeviceMatmul(const MatmulContext& context, const MatmulShape& shape);
  ~DeviceMatmul();
  DeviceMatmul(DeviceMatmul&&) noexcept;
  DeviceMatmul& operator=(DeviceMatmul&&) noexcept;

  // Error (not_supported) when cuBLASLt has no algorithm.
  void prepare(std::int64_t rows, MatmulChoice choice = MatmulChoice::by_rows);
  // x [rows, in_features], weight [out_features, in_features], y [rows, out_features]: device
  // memory, contiguous, aligned to 256 bytes, y apart from the others. rows may be 0.
  void run(std::int64_t rows, const void* x, const void* weight, void* y, Stream stream,
           MatmulChoice choice = MatmulChoice::by_rows);

 private:
  struct Product;

  const Product& product(std::int64_t rows, MatmulChoice choice);
  CublasLt::Algorithm choose(const Product& product, MatmulChoice choice) const;
  // Of all products of MatmulChoice::fixed.
  const CublasLt::Algorithm& fixed_algorithm();
  void check_fixed(const Product& product) const;

  const MatmulContext* context_;
  MatmulShape shape_;
  std::vector<Product> products_;  // by choice and rows, ascending
  std::optional<CublasLt::Algorithm> fixed_;
};

}  // namespace tilewright::engine
