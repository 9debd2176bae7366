// SPDX-License-Identifier: Apache-2.0
#include "sampling/check_args.h"

#include <cmath>

#include "base/checks.h"
#include "sampling/weight.h"

namespace tilewright {
namespace {

// Calls visit(name, tensor, dtype) for every argument that may be a tensor of parameters.
template <typename Visit>
void visit_tensors(const SamplingArgs& args, const Visit& visit) {
  visit("temperature", args.temperature.tensor, DType::f32);
  visit("top_k", args.top_k.tensor, DType::i32);
  visit("top_p", args.top_p.tensor, DType::f32);
  visit("min_p", args.min_p.tensor, DType::f32);
  visit("seeds", args.seeds.tensor, DType::i64);
  visit("steps", args.steps.tensor, DType::i64);
}

void check_values(float temperature, float top_p, float min_p, std::int64_t row) {
  require(temperature >= 0, "temperature of row {} is {}: it must not be negative", row,
          temperature);
  require(!std::isnan(top_p), "top_p of row {} is NaN: it must be a number", row);
  require(min_p >= 0 && min_p <= 1, "min_p of row {} is {}: it must be in [0, 1]", row, min_p);
}

void check_rows(const SamplingArgs& args, std::int64_t rows) {
  const std::int64_t entries = sampling_entries(args);
  for (std::int64_t row = 0; row < rows; ++row) {
    const std::int64_t entry = entry_of(args, row);
    require(entries == 0 || (entry >= 0 && entry < entries),
            "slots of row {} is {}: it must be in [0, {})", row, entry, entries);
    check_values(value_of(args.temperature, entry), value_of(args.top_p, entry),
                 value_of(args.min_p, entry), row);
  }
}

// What is in memory of the GPU is not read here.
void check_numbers(const SamplingArgs& args) {
  const auto number = [](const PerRow<float>& argument, float otherwise) {
    return argument.tensor.defined() ? otherwise : argument.value;
  };
  check_values(number(args.temperature, 1), number(args.top_p, 1), number(args.min_p, 0), 0);
}

}  // namespace

std::int64_t sampling_entries(const SamplingArgs& args) {
  std::int64_t entries = 0;
  visit_tensors(args, [&](const char*, const TensorView& tensor, DType) {
    if (entries == 0 && tensor.defined()) entries = tensor.shape[0];
  });
  return entries;
}

void check_sampling(const TensorView& logits, const SamplingArgs& args, const TensorView& tokens) {
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
  if (args.slots.defined()) {
    require_shape("slots", args.slots, {rows});
    require_dtype("slots", args.slots, {DType::i32});
    require_device("slots", args.slots, logits.device);
  }
  if (args.status.defined()) {
    require_shape("status", args.status, {rows});
    require_dtype("status", args.status, {DType::i32});
    require_device("status", args.status, logits.device);
    require_writable("status", args.status);
  }
  // Without slots a row has an entry, with them all tensors have as many as the first one.
  std::int64_t entries = args.slots.defined() ? -1 : rows;
  visit_tensors(args, [&](const char* name, const TensorView& tensor, DType dtype) {
    if (!tensor.defined()) return;
    require_shape(name, tensor, {entries});
    require_dtype(name, tensor, {dtype});
    require_device(name, tensor, logits.device);
    if (entries == -1) {
      entries = tensor.shape[0];
      require(entries > 0 || rows == 0, "{} is {}: it must have a slot", name, tensor);
    }
  });
  if (logits.device.type == DeviceType::cuda) {
    check_numbers(args);
  } else {
    check_rows(args, rows);
  }
}

}  // namespace tilewright
