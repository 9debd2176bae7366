// SPDX-License-Identifier: Apache-2.0
// The engine's matrix products by the cuBLASLt of this machine, beside sums in f64.
#include <tilewright/error.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>
#include <vector>

#include "engine/device_matmul.h"
#include "engine/numeric.h"
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
  double error_of(DType dtype, DType out_dtype, std::int64_t rows,
                  engine::MatmulChoice choice = engine::MatmulChoice::by_rows) const {
    constexpr std::int64_t kOut = 192, kIn = 576;
    Mirror x(filled(dtype, rows, kIn, 1)), weight(filled(dtype, kOut, kIn, 2));
    Mirror y(Tensor(out_dtype, {rows, kOut}));
    const cuda::ContextScope scope(0);
    const cuda::DeviceBuffer workspace(cuda::device(0), std::size_t{4} << 20);
    const engine::MatmulContext context(*api_, workspace.data(), workspace.bytes());
    engine::DeviceMatmul matmul(context, {kOut, kIn, dtype, out_dtype});
    matmul.run(rows, x.gpu.view().data, weight.gpu.view().data, y.gpu.view().data, {}, choice);
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

  // Products of one algorithm for all numbers of rows: the bits of every row alone and in company,
  // at every place.
  void expect_rows_of_fixed_bits(const engine::MatmulShape& shape) const {
    SCOPED_TRACE(testing::Message()
                 << dtype_name(shape.dtype) << " to " << dtype_name(shape.out_dtype) << ", "
                 << shape.out_features << " of " << shape.in_features);
    constexpr std::int64_t kRows = 300;
    const cuda::ContextScope scope(0);
    const cuda::Device& device = cuda::device(0);
    const cuda::DeviceBuffer workspace(device, std::size_t{32} << 20);
    const engine::MatmulContext context(*api_, workspace.data(), workspace.bytes());
    engine::DeviceMatmul matmul(context, shape);
    const cuda::DeviceBuffer x = random_bits(shape.dtype, kRows * shape.in_features, 3);
    const cuda::DeviceBuffer weight =
        random_bits(shape.dtype, shape.out_features * shape.in_features, 4);
    const auto x_row = static_cast<std::size_t>(shape.in_features * dtype_bytes(shape.dtype));
    const auto y_row = static_cast<std::size_t>(shape.out_features * dtype_bytes(shape.out_dtype));
    const cuda::DeviceBuffer some_x(device, x.bytes()), some_y(device, kRows * y_row);
    const cuda::DeviceBuffer y(device, kRows * y_row);
    const auto at = [](const cuda::DeviceBuffer& buffer, std::int64_t row, std::size_t bytes) {
      return static_cast<std::byte*>(buffer.data()) + static_cast<std::size_t>(row) * bytes;
    };
    // Each row once, in products of `count` rows.
    const auto in_parts_of = [&](std::int64_t count) {
      for (std::int64_t begin = 0; begin < kRows; begin += count) {
        const std::int64_t rows = std::min(count, kRows - begin);
        cuda::copy_on_device(some_x.data(), at(x, begin, x_row),
                             static_cast<std::size_t>(rows) * x_row, {});
        matmul.run(rows, some_x.data(), weight.data(), some_y.data(), {},
                   engine::MatmulChoice::fixed);
        cuda::copy_on_device(at(y, begin, y_row), some_y.data(),
                             static_cast<std::size_t>(rows) * y_row, {});
      }
      std::vector<std::byte> bits(y.bytes());
      cuda::copy_to_host(bits.data(), y.data(), bits.size(), {});
      cuda::synchronize({});
      return bits;
    };
    const std::vector<std::byte> expected = in_parts_of(kRows);
    EXPECT_NE(expected, std::vector<std::byte>(expected.size()));
    for (const std::int64_t count : {1, 2, 3, 4, 8, 16, 24, 63, 64, 65, 128, 129, 200, 256}) {
      EXPECT_TRUE(in_parts_of(count) == expected) << "parts of " << count << " rows";
    }
  }

  std::optional<engine::CublasLt> api_;

 private:
  // Numbers in [-1, 1].
  static cuda::DeviceBuffer random_bits(DType dtype, std::int64_t count, std::uint32_t seed) {
    std::vector<std::byte> values(static_cast<std::size_t>(count * dtype_bytes(dtype)));
    const auto fill = [&]<typename Bits>(Bits* out, const auto& bits_of) {
      std::uint32_t state = seed;
      for (std::int64_t i = 0; i < count; ++i) {
        state = state * 1664525 + 1013904223;
        out[i] = bits_of(static_cast<float>(static_cast<std::int32_t>(state)) * 0x1p-31F);
      }
    };
    if (dtype == DType::f32) {
      fill(reinterpret_cast<float*>(values.data()), [](float value) { return value; });
    } else {
      fill(reinterpret_cast<std::uint16_t*>(values.data()), engine::f32_to_bf16);
    }
    cuda::DeviceBuffer buffer(cuda::device(0), values.size());
    cuda::copy_to_device(buffer.data(), values.data(), values.size(), {});
    cuda::synchronize({});
    return buffer;
  }
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

TEST_F(MatmulGpu, FixedIsAsExact) {
  constexpr auto kFixed = engine::MatmulChoice::fixed;
  for (const std::int64_t rows : {1, 3, 8, 64, 257}) {
    EXPECT_LT(error_of(DType::f32, DType::f32, rows, kFixed), 2e-6) << rows;
    EXPECT_LT(error_of(DType::bf16, DType::f32, rows, kFixed), 2e-6) << rows;
    EXPECT_LT(error_of(DType::bf16, DType::bf16, rows, kFixed), 4e-3) << rows;
  }
}

// The products of the engine: QKV, output, gate and up, down, head.
struct ModelShapes {
  std::int64_t hidden, qkv, ffn, head;

  std::vector<engine::MatmulShape> of(DType dtype) const {
    return {{qkv, hidden, dtype, dtype},
            {hidden, hidden, dtype, DType::f32},
            {2 * ffn, hidden, dtype, dtype},
            {hidden, ffn, dtype, DType::f32},
            {head, hidden, dtype, DType::f32}};
  }
};

// Of the tiny model of tests/engine, SmolLM2-135M, Llama 3.2 1B and Llama 3.1 8B (whose heads are
// longer; their tiles are the same).
constexpr std::array kModels = {ModelShapes{64, 128, 96, 263}, ModelShapes{576, 960, 1536, 49152},
                                ModelShapes{2048, 3072, 8192, 32768},
                                ModelShapes{4096, 6144, 14336, 16384}};

TEST_F(MatmulGpu, FixedRowsOfBf16DoNotKnowOfEachOther) {
  for (const ModelShapes& model : kModels) {
    for (const engine::MatmulShape& shape : model.of(DType::bf16)) expect_rows_of_fixed_bits(shape);
  }
}

TEST_F(MatmulGpu, FixedRowsOfF32DoNotKnowOfEachOther) {
  for (const ModelShapes& model : kModels) {
    for (const engine::MatmulShape& shape : model.of(DType::f32)) expect_rows_of_fixed_bits(shape);
  }
}

}  // namespace
}  // namespace tilewright::test
