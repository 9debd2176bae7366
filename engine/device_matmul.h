// SPDX-License-Identifier: Apache-2.0
// Matrix products y = x W^T on a GPU, by cuBLASLt.
#pragma once

#include <tilewright/tensor_view.h>

#include <cstddef>
#include <cstdint>
#include <memory>
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

// Products of one shape, with any weights. Accumulates in f32; f32 products are true f32 (no TF32).
// An algorithm is chosen for each number of rows; prepare() does it ahead, as it may not be done
// while a graph is captured.
class DeviceMatmul {
 public:
  // Error for features less than 1 and dtypes other than above.
  DeviceMatmul(const MatmulContext& context, const MatmulShape& shape);
  ~DeviceMatmul();
  DeviceMatmul(DeviceMatmul&&) noexcept;
  DeviceMatmul& operator=(DeviceMatmul&&) noexcept;

  // Error (not_supported) when cuBLASLt has no algorithm.
  void prepare(std::int64_t rows);
  // x [rows, in_features], weight [out_features, in_features], y [rows, out_features]: device
  // memory, contiguous, aligned to 16 bytes, y apart from the others. rows may be 0.
  void run(std::int64_t rows, const void* x, const void* weight, void* y, Stream stream);

 private:
  struct Product;

  const Product& product(std::int64_t rows);

  const MatmulContext* context_;
  MatmulShape shape_;
  std::vector<Product> products_;  // by rows, ascending
};

}  // namespace tilewright::engine
