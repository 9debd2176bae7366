// SPDX-License-Identifier: Apache-2.0
// How the token of a row of logits is drawn.
#pragma once

#include <tilewright/tilewright.h>

#include <cstdint>

namespace tilewright::engine {

// As SamplingArgs has them.
struct RowSampling {
  float temperature = 0;
  std::int32_t top_k = 0;
  float top_p = 1;
  float min_p = 0;
  std::int64_t seed = 0;
  std::int64_t step = 0;
};

// Of an array of rows in the device's memory, in place.
inline SamplingArgs sampling_args(const RowSampling* rows, std::int64_t count, Device device) {
  const auto member = [&](const void* first, DType dtype) {
    const auto stride = static_cast<std::int64_t>(sizeof(RowSampling)) / dtype_bytes(dtype);
    return TensorView(first, dtype, {count}, {stride}, device);
  };
  SamplingArgs args;
  args.temperature = member(&rows->temperature, DType::f32);
  args.top_k = member(&rows->top_k, DType::i32);
  args.top_p = member(&rows->top_p, DType::f32);
  args.min_p = member(&rows->min_p, DType::f32);
  args.seeds = member(&rows->seed, DType::i64);
  args.steps = member(&rows->step, DType::i64);
  return args;
}

}  // namespace tilewright::engine
