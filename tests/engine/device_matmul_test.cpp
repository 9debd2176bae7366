// SPDX-License-Identifier: Apache-2.0
// What is asked of cuBLASLt, by a table of functions that compute on the host: layouts, algorithms
// by rows, messages. tests/gpu/matmul_gpu_test.cpp has the library itself.
#include "engine/device_matmul.h"

#include <gtest/gtest.h>

#include <utility>

#include "engine/expect_error.h"

namespace tilewright::engine {

struct CublasLt::Context {};
struct CublasLt::Preference {
  std::size_t workspace_bytes = 0;
  std::uint32_t reduction_schemes = 7;
};
struct CublasLt::MatmulDesc {
  int transpose_a = 0;
};
struct CublasLt::MatrixLayout {
  int type;
  std::uint64_t rows, columns;
  std::int64_t stride;
};

namespace {

using test::expect_error;

int heuristics = 0;  // calls
CublasLt::Preference asked;
int heuristic_status = 0;
int check_status = 0;
std::uint64_t algorithm_run = 0;  // the number of rows that it was chosen for

template <typename Object>
int destroy(Object* object) {
  delete object;
  return 0;
}

const float* element(const void* data, const CublasLt::MatrixLayout& layout, std::uint64_t row,
                     std::uint64_t column) {
  EXPECT_LT(row, layout.rows);
  EXPECT_LT(column, layout.columns);
  return static_cast<const float*>(data) + row + column * static_cast<std::uint64_t>(layout.stride);
}

CublasLt host_library() {
  CublasLt api;
  api.path = "host";
  api.get_status_name = [](int) { return "STATUS"; };
  api.create = [](CublasLt::Context** out) {
    *out = new CublasLt::Context;
    return 0;
  };
  api.destroy = destroy<CublasLt::Context>;
  api.matmul_desc_create = [](CublasLt::MatmulDesc** out, int compute, int scale) {
    EXPECT_EQ(compute, CublasLt::kComputeF32);
    EXPECT_EQ(scale, CublasLt::kF32);
    *out = new CublasLt::MatmulDesc;
    return 0;
  };
  api.matmul_desc_destroy = destroy<CublasLt::MatmulDesc>;
  api.matmul_desc_set_attribute = [](CublasLt::MatmulDesc* desc, int attribute, const void* value,
                                     std::size_t bytes) {
    EXPECT_EQ(attribute, CublasLt::kDescTransposeA);
    EXPECT_EQ(bytes, sizeof(int));
    desc->transpose_a = *static_cast<const int*>(value);
    return 0;
  };
  api.matrix_layout_create = [](CublasLt::MatrixLayout** out, int type, std::uint64_t rows,
                                std::uint64_t columns, std::int64_t stride) {
    *out = new CublasLt::MatrixLayout{type, rows, columns, stride};
    return 0;
  };
  api.matrix_layout_destroy = destroy<CublasLt::MatrixLayout>;
  api.preference_create = [](CublasLt::Preference** out) {
    *out = new CublasLt::Preference;
    return 0;
  };
  api.preference_destroy = destroy<CublasLt::Preference>;
  api.preference_set_attribute = [](CublasLt::Preference* preference, int attribute,
                                    const void* value, std::size_t bytes) {
    if (attribute == CublasLt::kPreferenceWorkspaceBytes) {
      EXPECT_EQ(bytes, sizeof preference->workspace_bytes);
      preference->workspace_bytes = *static_cast<const std::size_t*>(value);
    } else {
      EXPECT_EQ(attribute, CublasLt::kPreferenceReductionSchemes);
      EXPECT_EQ(bytes, sizeof preference->reduction_schemes);
      preference->reduction_schemes = *static_cast<const std::uint32_t*>(value);
    }
    return 0;
  };
  api.get_heuristic = [](CublasLt::Context*, CublasLt::MatmulDesc*, CublasLt::MatrixLayout*,
                         CublasLt::MatrixLayout* b, CublasLt::MatrixLayout*,
                         CublasLt::MatrixLayout*, CublasLt::Preference* preference, int,
                         CublasLt::Heuristic* results, int* count) {
    ++heuristics;
    asked = *preference;
    results[0] = {};
    results[0].algorithm.data[0] = b->columns;
    *count = 1;
    return heuristic_status;
  };
  api.check_algorithm = [](CublasLt::Context*, CublasLt::MatmulDesc*, CublasLt::MatrixLayout*,
                           CublasLt::MatrixLayout*, CublasLt::MatrixLayout*,
                           CublasLt::MatrixLayout*, const CublasLt::Algorithm* algorithm,
                           CublasLt::Heuristic* result) {
    EXPECT_EQ(algorithm->data[0], 64U);
    *result = {};
    return check_status;
  };
  api.matmul = [](CublasLt::Context*, CublasLt::MatmulDesc* desc, const void* alpha, const void* a,
                  CublasLt::MatrixLayout* a_layout, const void* b, CublasLt::MatrixLayout* b_layout,
                  const void* beta, const void*, CublasLt::MatrixLayout*, void* d,
                  CublasLt::MatrixLayout* d_layout, const CublasLt::Algorithm* algorithm, void*,
                  std::size_t, void*) {
    algorithm_run = algorithm->data[0];
    EXPECT_EQ(*static_cast<const float*>(alpha), 1);
    EXPECT_EQ(*static_cast<const float*>(beta), 0);
    EXPECT_EQ(desc->transpose_a, CublasLt::kTransposed);
    for (std::uint64_t row = 0; row < d_layout->rows; ++row) {
      for (std::uint64_t column = 0; column < d_layout->columns; ++column) {
        float sum = 0;
        for (std::uint64_t i = 0; i < a_layout->rows; ++i) {
          sum += *element(a, *a_layout, i, row) * *element(b, *b_layout, i, column);
        }
        *const_cast<float*>(element(d, *d_layout, row, column)) = sum;
      }
    }
    return 0;
  };
  return api;
}

class DeviceMatmulTest : public ::testing::Test {
 protected:
  DeviceMatmulTest() : context_(host_library(), nullptr, 1 << 20) {
    heuristics = 0;
    heuristic_status = check_status = 0;
  }

  MatmulContext context_;
};

TEST_F(DeviceMatmulTest, MultipliesRowsByTheTransposedWeight) {
  DeviceMatmul matmul(context_, {3, 2});
  const std::vector<float> x{1, 2, 3, 4}, weight{1, 0, 0, 1, 10, 100};
  std::vector<float> y(6);
  matmul.run(2, x.data(), weight.data(), y.data(), {});
  EXPECT_EQ(y, (std::vector<float>{1, 2, 210, 3, 4, 430}));
}

TEST_F(DeviceMatmulTest, ChoosesAnAlgorithmOnceForEachNumberOfRows) {
  DeviceMatmul matmul(context_, {1, 1});
  const std::vector<float> x{2, 3, 4};
  const float weight = 5;
  std::vector<float> y(3);
  matmul.prepare(3);
  matmul.prepare(1);
  EXPECT_EQ(heuristics, 2);
  EXPECT_EQ(asked.workspace_bytes, 1U << 20);
  EXPECT_EQ(asked.reduction_schemes, 7U);
  matmul.run(1, x.data(), &weight, y.data(), {});
  EXPECT_EQ(algorithm_run, 1U);
  EXPECT_EQ(y, (std::vector<float>{10, 0, 0}));
  matmul.run(3, x.data(), &weight, y.data(), {});
  EXPECT_EQ(y, (std::vector<float>{10, 15, 20}));
  matmul.run(0, nullptr, nullptr, nullptr, {});
  EXPECT_EQ(heuristics, 2);
}

TEST_F(DeviceMatmulTest, FixedIsOneAlgorithmForAllNumbersOfRows) {
  DeviceMatmul matmul(context_, {1, 1});
  const std::vector<float> x{2, 3, 4};
  const float weight = 5;
  std::vector<float> y(3);
  matmul.prepare(3, MatmulChoice::fixed);
  EXPECT_EQ(heuristics, 1);
  // Sums in one piece: no scheme that joins parts, no room for them.
  EXPECT_EQ(asked.reduction_schemes, 0U);
  EXPECT_EQ(asked.workspace_bytes, 1024U);
  for (const std::int64_t rows : {1, 2, 3}) {
    matmul.run(rows, x.data(), &weight, y.data(), {}, MatmulChoice::fixed);
    EXPECT_EQ(algorithm_run, 64U);
  }
  EXPECT_EQ(y, (std::vector<float>{10, 15, 20}));
  EXPECT_EQ(heuristics, 1);
  // Beside the others.
  matmul.run(3, x.data(), &weight, y.data(), {});
  EXPECT_EQ(algorithm_run, 3U);
  EXPECT_EQ(heuristics, 2);
}

TEST_F(DeviceMatmulTest, SaysWhatIsWrong) {
  expect_error([&] { DeviceMatmul(context_, {0, 2}); }, {"shape is [0, 2]"});
  expect_error(
      [&] {
        DeviceMatmul(context_, {1, 1, DType::f16});
      },
      {"dtype is float16", "f32 or bf16"});
  expect_error(
      [&] {
        DeviceMatmul(context_, {1, 1, DType::f32, DType::bf16});
      },
      {"out_dtype is bfloat16", "float32"});
  DeviceMatmul matmul(context_, {4, 8});
  expect_error([&] { matmul.prepare(-1); }, {"rows is -1"});
  heuristic_status = 15;
  expect_error([&] { matmul.prepare(2); }, {"no product of [2, 8] with [8, 4]", "STATUS"},
               ErrorCode::not_supported);
  heuristic_status = 0;
  matmul.prepare(2);
  check_status = 15;
  expect_error([&] { matmul.prepare(5, MatmulChoice::fixed); },
               {"[64, 8] with [8, 4] does not take 5 rows", "STATUS"}, ErrorCode::not_supported);
  check_status = 0;
  matmul.prepare(5, MatmulChoice::fixed);
}

}  // namespace
}  // namespace tilewright::engine
