// SPDX-License-Identifier: Apache-2.0
// What the engine's matrix products cost on a GPU, and what it costs that a row's bits depend on
// nothing but the row:
//
//   matmul_bench [SUBSTRING]
//
// One line a model, dtype and number of rows: microseconds of the products of a layer, in a CUDA
// graph over layers whose weights no cache holds any more, by the algorithm that cuBLASLt takes for
// the number of rows, and by one for all numbers of rows; their ratio; GB/s of the weights.
#include <array>
#include <cstdio>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "engine/device_matmul.h"
#include "place.h"

namespace tilewright::bench {
namespace {

using engine::DeviceMatmul;
using engine::MatmulChoice;

struct Model {
  const char* name;
  std::int64_t hidden, qkv, ffn;
};

constexpr std::array kModels = {Model{"smollm2-135m", 576, 960, 1536},
                                Model{"llama-3.2-1b", 2048, 3072, 8192},
                                Model{"llama-3.1-8b", 4096, 6144, 14336}};
constexpr std::array<std::int64_t, 7> kRows = {1, 8, 32, 64, 256, 512, 2048};
// Of the weights that a graph goes through: many times an L2 cache of 50 MB, and a layer of the
// largest model in f32.
constexpr std::int64_t kRound = std::int64_t{1} << 30;

std::vector<engine::MatmulShape> products(const Model& model, DType dtype) {
  return {{model.qkv, model.hidden, dtype, dtype},
          {model.hidden, model.hidden, dtype, DType::f32},
          {2 * model.ffn, model.hidden, dtype, dtype},
          {model.hidden, model.ffn, dtype, DType::f32}};
}

std::int64_t weight_bytes(const engine::MatmulShape& shape) {
  return shape.out_features * shape.in_features * dtype_bytes(shape.dtype);
}

struct Memory {
  std::byte* weights;
  void *x, *y;
};

void run_model(const Place& place, const engine::MatmulContext& context, const Memory& memory,
               const Model& model, DType dtype) {
  std::vector<DeviceMatmul> matmuls;
  std::vector<std::int64_t> offsets;
  std::int64_t layer_bytes = 0;
  for (const engine::MatmulShape& shape : products(model, dtype)) {
    matmuls.emplace_back(context, shape);
    offsets.push_back(layer_bytes);
    layer_bytes += weight_bytes(shape);
  }
  const int layers = static_cast<int>(kRound / layer_bytes);
  for (const std::int64_t rows : kRows) {
    std::vector<double> us;
    for (const MatmulChoice choice : {MatmulChoice::by_rows, MatmulChoice::fixed}) {
      for (DeviceMatmul& matmul : matmuls) matmul.prepare(rows, choice);
      us.push_back(place.device_us(layers, [&](int layer) {
        for (std::size_t i = 0; i < matmuls.size(); ++i) {
          matmuls[i].run(rows, memory.x, memory.weights + layer * layer_bytes + offsets[i],
                         memory.y, place.stream(), choice);
        }
      }));
    }
    std::printf(
        "%-14s %-9s %5lld rows  by_rows %8.1f us %6.0f GB/s  fixed %8.1f us %6.0f GB/s"
        "  ratio %.2f\n",
        model.name, dtype_name(dtype), static_cast<long long>(rows), us[0],
        static_cast<double>(layer_bytes) / us[0] * 1e-3, us[1],
        static_cast<double>(layer_bytes) / us[1] * 1e-3, us[1] / us[0]);
    std::fflush(stdout);
  }
}

void run_all(const std::string& only) {
  Place place(Device{DeviceType::cuda, 0});
  const int most_major = cuda::driver().version / 1000;
  // Numbers near 1, none of them special, as bf16 and as f32.
  std::vector<std::uint16_t> bits(static_cast<std::size_t>(kRound / 2));
  std::minstd_rand random(1);
  for (std::uint16_t& some : bits) {
    some = static_cast<std::uint16_t>(0x3F00U + (random() & 0x80FFU));
  }
  auto* const weights = static_cast<std::byte*>(place.upload(bits.data(), kRound));
  const std::size_t most = std::size_t{256} << 20;  // of activations
  const Memory memory{weights, place.duplicate(weights, most), place.duplicate(weights, most)};
  const std::size_t workspace_bytes = std::size_t{32} << 20;
  const engine::MatmulContext context(
      engine::open_cublaslt(engine::cublaslt_candidates("", most_major)),
      place.duplicate(weights, workspace_bytes), workspace_bytes);
  for (const Model& model : kModels) {
    if (std::string(model.name).find(only) == std::string::npos) continue;
    for (const DType dtype : {DType::bf16, DType::f32}) {
      run_model(place, context, memory, model, dtype);
    }
  }
}

}  // namespace
}  // namespace tilewright::bench

int main(int argc, char** argv) {
  try {
    tilewright::bench::run_all(argc > 1 ? argv[1] : "");
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "matmul_bench: %s\n", error.what());
    return 2;
  }
}
