// SPDX-License-Identifier: Apache-2.0
#include "sampling/check_args.h"

#include <cmath>

#include "base/checks.h"
#include "sampling/outputs.h"
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
  visit("typical_p", args.typical_p.tensor, DType::f32);
  visit("repetition_penalty", args.repetition_penalty.tensor, DType::f32);
  visit("frequency_penalty", args.frequency_penalty.tensor, DType::f32);
  visit("presence_penalty", args.presence_penalty.tensor, DType::f32);
  visit("seeds", args.seeds.tensor, DType::i64);
  visit("steps", args.steps.tensor, DType::i64);
}

// Calls visit(name, tensor, dtype, columns) for every table, a row of which is an entry.
template <typename Visit>
void visit_tables(const SamplingArgs& args, std::int64_t vocabulary, const Visit& visit) {
  const std::int64_t words = (vocabulary + 31) / 32;
  visit("allowed", args.allowed, DType::i32, words);
  visit("bias_ids", args.bias_ids, DType::i32, std::int64_t{-1});
  visit("bias_values", args.bias_values, DType::f32,
        args.bias_ids.defined() ? args.bias_ids.shape[1] : -1);
  visit("output_counts", args.output_counts, DType::i32, vocabulary);
  visit("prompt_bits", args.prompt_bits, DType::i32, words);
}

void check_log_probs(const char* of, const LogProbs& log_probs, const TensorView& logits) {
  if (!is_wanted(log_probs) && !log_probs.best_ids.defined()) return;
  const std::string name(of);
  const std::int64_t rows = logits.shape[0];
  const auto check = [&](const char* member, const TensorView& tensor, DType dtype) {
    require_dtype(name + member, tensor, {dtype});
    require_device(name + member, tensor, logits.device);
    require_writable(name + member, tensor);
  };
  if (log_probs.chosen.defined()) {
    require_shape(name + ".chosen", log_probs.chosen, {rows});
    check(".chosen", log_probs.chosen, DType::f32);
  }
  if (log_probs.ranks.defined()) {
    require_shape(name + ".ranks", log_probs.ranks, {rows});
    check(".ranks", log_probs.ranks, DType::i32);
  }
  require(log_probs.best.defined() == log_probs.best_ids.defined(),
          "{0}.best is {1}, {0}.best_ids is {2}: they must be given together", name, log_probs.best,
          log_probs.best_ids);
  if (!log_probs.best.defined()) return;
  require_shape(name + ".best", log_probs.best, {rows, -1});
  const std::int64_t n = log_probs.best.shape[1];
  require(n >= 1 && n <= kMostBest, "{}.best is {}: its columns must be in [1, {}]", name,
          log_probs.best, kMostBest);
  require_shape(name + ".best_ids", log_probs.best_ids, {rows, n});
  check(".best", log_probs.best, DType::f32);
  check(".best_ids", log_probs.best_ids, DType::i32);
  require_last_dim_contiguous(name + ".best", log_probs.best);
  require_last_dim_contiguous(name + ".best_ids", log_probs.best_ids);
}

void check_outputs(const TensorView& logits, const SamplingArgs& args) {
  const SamplingOutputs& outputs = args.outputs;
  const auto check = [&](const char* name, const TensorView& tensor, std::int64_t columns) {
    require_shape(name, tensor, {logits.shape[0], columns});
    require_device(name, tensor, logits.device);
    require_last_dim_contiguous(name, tensor);
    require_writable(name, tensor);
  };
  const std::int64_t vocabulary = logits.shape[1];
  if (outputs.kept.defined()) {
    check("outputs.kept", outputs.kept, (vocabulary + 31) / 32);
    require_dtype("outputs.kept", outputs.kept, {DType::i32});
  }
  if (outputs.probabilities.defined()) {
    check("outputs.probabilities", outputs.probabilities, vocabulary);
    require_dtype("outputs.probabilities", outputs.probabilities, {DType::f32});
  }
  if (outputs.masked_logits.defined()) {
    check("outputs.masked_logits", outputs.masked_logits, vocabulary);
    require_dtype("outputs.masked_logits", outputs.masked_logits, {DType::f32, logits.dtype});
    require(args.input == SamplingInput::logits,
            "outputs.masked_logits is {}: it must be empty where the input is probabilities",
            outputs.masked_logits);
  }
  check_log_probs("outputs.raw", outputs.raw, logits);
  check_log_probs("outputs.processed", outputs.processed, logits);
}

void check_input(const SamplingArgs& args) {
  require(args.input <= SamplingInput::probabilities, "input is {}: it must be a SamplingInput",
          static_cast<int>(args.input));
  if (args.input == SamplingInput::logits) return;
  require(args.order != FilterOrder::llamacpp,
          "order is llamacpp: it must be another one where the input is probabilities");
  const auto require_none = [](const char* name, const TensorView& tensor) {
    require(!tensor.defined(), "{} is {}: it must be empty where the input is probabilities", name,
            tensor);
  };
  require_none("allowed", args.allowed);
  require_none("bias_ids", args.bias_ids);
  require_none("bias_values", args.bias_values);
  require_none("output_counts", args.output_counts);
  require_none("prompt_bits", args.prompt_bits);
}

void check_values(const SamplingArgs& args, std::int64_t entry, std::int64_t row, bool tensors) {
  const auto value = [&](const PerRow<float>& argument, float otherwise) {
    return argument.tensor.defined() && !tensors ? otherwise : value_of(argument, entry);
  };
  const float temperature = value(args.temperature, 1);
  require(temperature >= 0, "temperature of row {} is {}: it must not be negative", row,
          temperature);
  require(args.input == SamplingInput::logits || temperature == 0 || temperature == 1,
          "temperature of row {} is {}: it must be 1 or 0 where the input is probabilities", row,
          temperature);
  require(!std::isnan(value(args.top_p, 1)), "top_p of row {} is NaN: it must be a number", row);
  require(!std::isnan(value(args.typical_p, 1)), "typical_p of row {} is NaN: it must be a number",
          row);
  const float min_p = value(args.min_p, 0);
  require(min_p >= 0 && min_p <= 1, "min_p of row {} is {}: it must be in [0, 1]", row, min_p);
  const float repetition = value(args.repetition_penalty, 1);
  require(repetition > 0 && std::isfinite(repetition),
          "repetition_penalty of row {} is {}: it must be positive and finite", row, repetition);
  const float frequency = value(args.frequency_penalty, 0);
  require(std::isfinite(frequency), "frequency_penalty of row {} is {}: it must be finite", row,
          frequency);
  const float presence = value(args.presence_penalty, 0);
  require(std::isfinite(presence), "presence_penalty of row {} is {}: it must be finite", row,
          presence);
}

void check_bias_ids(const TensorView& ids, std::int64_t entry, std::int64_t vocabulary,
                    std::int64_t row) {
  if (!ids.defined()) return;
  const auto* list = static_cast<const std::int32_t*>(ids.data) + entry * ids.strides[0];
  for (std::int64_t i = 0; i < ids.shape[1]; ++i) {
    require(list[i] >= -1 && list[i] < vocabulary,
            "bias_ids[{}] of row {} is {}: it must be in [-1, {})", i, row, list[i], vocabulary);
  }
}

void check_rows(const SamplingArgs& args, std::int64_t rows, std::int64_t vocabulary) {
  const std::int64_t entries = sampling_entries(args);
  for (std::int64_t row = 0; row < rows; ++row) {
    const std::int64_t entry = entry_of(args, row);
    require(entries == 0 || (entry >= 0 && entry < entries),
            "slots of row {} is {}: it must be in [0, {})", row, entry, entries);
    check_values(args, entry, row, true);
    check_bias_ids(args.bias_ids, entry, vocabulary, row);
  }
}

}  // namespace

std::int64_t sampling_entries(const SamplingArgs& args) {
  std::int64_t entries = 0;
  visit_tensors(args, [&](const char*, const TensorView& tensor, DType) {
    if (entries == 0 && tensor.defined()) entries = tensor.shape[0];
  });
  visit_tables(args, 0, [&](const char*, const TensorView& tensor, DType, std::int64_t) {
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
  require(args.order <= FilterOrder::llamacpp, "order is {}: it must be a FilterOrder",
          static_cast<int>(args.order));
  check_input(args);
  check_outputs(logits, args);
  if (tokens.defined() || !any_wanted(args.outputs)) {
    require_shape("tokens", tokens, {rows});
    require_dtype("tokens", tokens, {DType::i32, DType::i64});
    require_device("tokens", tokens, logits.device);
    require_writable("tokens", tokens);
  }
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
  const auto check_entries = [&](const char* name, const TensorView& tensor, DType dtype) {
    require_dtype(name, tensor, {dtype});
    require_device(name, tensor, logits.device);
    if (entries == -1) {
      entries = tensor.shape[0];
      require(entries > 0 || rows == 0, "{} is {}: it must have a slot", name, tensor);
    }
  };
  visit_tensors(args, [&](const char* name, const TensorView& tensor, DType dtype) {
    if (!tensor.defined()) return;
    require_shape(name, tensor, {entries});
    check_entries(name, tensor, dtype);
  });
  require(args.bias_ids.defined() == args.bias_values.defined(),
          "bias_ids is {}, bias_values is {}: they must be given together", args.bias_ids,
          args.bias_values);
  visit_tables(args, logits.shape[1],
               [&](const char* name, const TensorView& tensor, DType dtype, std::int64_t columns) {
                 if (!tensor.defined()) return;
                 require_shape(name, tensor, {entries, columns});
                 require_last_dim_contiguous(name, tensor);
                 check_entries(name, tensor, dtype);
               });
  if (logits.device.type == DeviceType::cuda) {
    check_values(args, 0, 0, false);
  } else {
    check_rows(args, rows, logits.shape[1]);
  }
}

}  // namespace tilewright
