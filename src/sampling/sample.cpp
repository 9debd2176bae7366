// SPDX-License-Identifier: Apache-2.0
// Front end of sampling: checks, then rows over threads. What is computed: docs/sampling.md.
#include <tilewright/sampling.h>

#include <cmath>

#include "base/checks.h"
#include "base/parallel.h"
#include "sampling/cuda_sample.h"
#include "sampling/philox.h"
#include "sampling/row_sampler.h"

namespace tilewright {
namespace {

template <typename T>
void check_per_row(const char* name, const PerRow<T>& argument, DType dtype,
                   const TensorView& logits) {
  if (!argument.tensor.defined()) return;
  require_shape(name, argument.tensor, {logits.shape[0]});
  require_dtype(name, argument.tensor, {dtype});
  require_device(name, argument.tensor, logits.device);
}

template <typename T>
T value_of(const PerRow<T>& argument, std::int64_t row) {
  if (!argument.tensor.defined()) return argument.value;
  return static_cast<const T*>(argument.tensor.data)[row * argument.tensor.strides[0]];
}

void check_values(float temperature, float top_p, float min_p, std::int64_t row) {
  require(temperature >= 0, "temperature of row {} is {}: it must not be negative", row,
          temperature);
  require(!std::isnan(top_p), "top_p of row {} is NaN: it must be a number", row);
  require(min_p >= 0 && min_p <= 1, "min_p of row {} is {}: it must be in [0, 1]", row, min_p);
}

void check_values(const SamplingArgs& args, std::int64_t rows) {
  for (std::int64_t row = 0; row < rows; ++row) {
    check_values(value_of(args.temperature, row), value_of(args.top_p, row),
                 value_of(args.min_p, row), row);
  }
}

// What is in memory of the GPU is not read here.
void check_numbers(const SamplingArgs& args) {
  const auto number = [](const PerRow<float>& argument, float otherwise) {
    return argument.tensor.defined() ? otherwise : argument.value;
  };
  check_values(number(args.temperature, 1), number(args.top_p, 1), number(args.min_p, 0), 0);
}

void check(const TensorView& logits, const SamplingArgs& args, const TensorView& tokens) {
  require_rank("logits", logits, {2});
  require_dtype("logits", logits, {DType::f32, DType::f16, DType::bf16});
  require_last_dim_contiguous("logits", logits);
  const std::int64_t rows = logits.shape[0];
  require(logits.shape[1] >= 1 && logits.shape[1] <= kMaxVocabulary,
          "logits is {}: its vocabulary must be in [1, {}]", logits, kMaxVocabulary);
  require_shape("tokens", tokens, {rows});
  require_dtype("tokens", tokens, {DType::i32, DType::i64});
  require_device("tokens", tokens, logits.device);
  require_writable("tokens", tokens);
  check_per_row("temperature", args.temperature, DType::f32, logits);
  check_per_row("top_k", args.top_k, DType::i32, logits);
  check_per_row("top_p", args.top_p, DType::f32, logits);
  check_per_row("min_p", args.min_p, DType::f32, logits);
  check_per_row("seeds", args.seeds, DType::i64, logits);
  check_per_row("steps", args.steps, DType::i64, logits);
  if (logits.device.type == DeviceType::cuda) {
    check_numbers(args);
  } else {
    check_values(args, rows);
  }
}

void sample_row(RowSampler& sampler, const TensorView& logits, const SamplingArgs& args,
                const TensorView& tokens, std::int64_t row) {
  Logits list;
  list.values = static_cast<const std::byte*>(logits.data) +
                row * logits.strides[0] * dtype_bytes(logits.dtype);
  list.dtype = logits.dtype;
  list.count = logits.shape[1];
  RowParams params;
  params.temperature = value_of(args.temperature, row);
  params.top_k = value_of(args.top_k, row);
  params.top_p = value_of(args.top_p, row);
  params.min_p = value_of(args.min_p, row);
  params.random = sampling_bits(value_of(args.seeds, row), value_of(args.steps, row));
  const std::int32_t token = sampler.sample(list, params);
  const std::int64_t at = row * tokens.strides[0];
  if (tokens.dtype == DType::i64) {
    static_cast<std::int64_t*>(tokens.data)[at] = token;
  } else {
    static_cast<std::int32_t*>(tokens.data)[at] = token;
  }
}

}  // namespace

void sample(const TensorView& logits, const SamplingArgs& args, const TensorView& tokens) {
  check(logits, args, tokens);
  if (logits.device.type == DeviceType::cuda) {
    sample_on_cuda(logits, args, tokens);
    return;
  }
  const std::int64_t rows = logits.shape[0];
  // Buffers stay with their threads: to allocate them for each call costs as much as to sample.
  if (rows < num_threads()) {
    thread_local RowSampler sampler(true);
    for (std::int64_t row = 0; row < rows; ++row) sample_row(sampler, logits, args, tokens, row);
    return;
  }
  // Short rows are grouped until they are worth a thread.
  const std::int64_t grain = std::max<std::int64_t>(1, 16384 / logits.shape[1]);
  parallel_for(rows, grain, [&](std::int64_t begin, std::int64_t end) {
    thread_local RowSampler sampler(false);
    for (std::int64_t row = begin; row < end; ++row) {
      sample_row(sampler, logits, args, tokens, row);
    }
  });
}

}  // namespace tilewright
