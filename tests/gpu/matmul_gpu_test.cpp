// SPDX-License-Identifier: Apache-2.0
// The engine's matrix products by the cuBLASLt of this machine, beside sums in f64.
#include <tilewright/error.h>

#include <cmath>
#include <optional>

#include "engine/device_matmul.h"
#include "gpu/gpu_tensor.h"
#include "support/random.h"
#include "support/tensor.h"

namespace tilewright::test {
namespace {

Tensor filled(DType dtype, std::int64_t rows, std::int64_t columns, unsigned seed) {
  Random random(seed);
  Tensor tensor(dtype, {rows, columns});
  for (std::int64_t i = 0; i < rows; ++i) {
    for (std::int64_t j = 0; j < columns; ++j) tensor.set({i, j}, 2 * random.uniform() - 1);
  }
  return tensor;
}

class MatmulGpu : public GpuTest {
 protected:
  void SetUp() override {
    GpuTest::SetUp();
    if (IsSkipped()) return;
    const int most_major = cuda::driver().version / 1000;
    try {
      api_ = engine::open_cublaslt(engine::cublaslt_candidates("", most_major));
    } catch (const Error& error) {
      GTEST_SKIP() << error.what();
    }
  }

  // The largest error, in units of the sum of |x w|.
  double error_of(DType dtype, DType out_dtype, std::int64_t rows) const {
    constexpr std::int64_t kOut = 192, kIn = 576;
    Mirror x(filled(dtype, rows, kIn, 1)), weight(filled(dtype, kOut, kIn, 2));
    Mirror y(Tensor(out_dtype, {rows, kOut}));
    const cuda::ContextScope scope(0);
    const cuda::DeviceBuffer workspace(cuda::device(0), std::size_t{4} << 20);
    const engine::MatmulContext context(*api_, workspace.data(), workspace.bytes());
    engine::DeviceMatmul matmul(context, {kOut, kIn, dtype, out_dtype});
    matmul.run(rows, x.gpu.view().data, weight.gpu.view().data, y.gpu.view().data, {});
    y.gpu.download();
    double largest = 0;
    for (std::int64_t i = 0; i < rows; ++i) {
      for (std::int64_t j = 0; j < kOut; ++j) {
        double sum = 0, size = 0;
        for (std::int64_t k = 0; k < kIn; ++k) {
          const double product = x.host.get({i, k}) * weight.host.get({j, k});
          sum += product;
          size += std::abs(product);
        }
        const double error = std::abs(y.host.get({i, j}) - sum) / size;
        if (!(error <= largest)) largest = error;  // NaN too
      }
    }
    return largest;
  }

  std::optional<engine::CublasLt> api_;
};

TEST_F(MatmulGpu, F32IsTrueF32) {
  // TF32 would be off by 1e-4.
  for (const std::int64_t rows : {1, 3, 8, 64, 257}) {
    EXPECT_LT(error_of(DType::f32, DType::f32, rows), 2e-6) << rows;
  }
}

TEST_F(MatmulGpu, Bf16AccumulatesInF32) {
  for (const std::int64_t rows : {1, 3, 8, 64, 257}) {
    EXPECT_LT(error_of(DType::bf16, DType::f32, rows), 2e-6) << rows;
    EXPECT_LT(error_of(DType::bf16, DType::bf16, rows), 4e-3) << rows;
  }
}

}  // namespace
}  // namespace tilewright::test
