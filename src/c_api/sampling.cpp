// SPDX-License-Identifier: Apache-2.0
#include <tilewright/c_ops.h>
#include <tilewright/sampling.h>

#include <cstddef>
#include <limits>

#include "c_api/guard.h"
#include "c_api/read.h"
#include "c_api/read_sampling.h"

namespace tilewright::c_api {

// As it was before it had slots.
template <>
inline constexpr std::size_t kFirstSize<tw_sampling_args> = offsetof(tw_sampling_args, slots);

}  // namespace tilewright::c_api

using namespace tilewright;
using namespace tilewright::c_api;

namespace {

// Leaves what is not given.
template <typename T, typename Given>
void read_rows(const Path& path, const Given* given, PerRow<T>& rows) {
  if (given == nullptr) return;
  rows.tensor = read_tensor({path, "tensor"}, given->tensor);
  if (rows.tensor.defined()) return;
  if constexpr (std::is_same_v<Given, tw_integer>) {
    require(given->value >= std::numeric_limits<T>::min() &&
                given->value <= std::numeric_limits<T>::max(),
            "{} is {}: it must fit {} bits", path, given->value, 8 * sizeof(T));
  }
  rows.value = static_cast<T>(given->value);
}

LogProbs read_log_probs(const Path& path, const tw_log_probs& given) {
  return {read_tensor({path, "chosen"}, given.chosen), read_tensor({path, "ranks"}, given.ranks),
          read_tensor({path, "best"}, given.best), read_tensor({path, "best_ids"}, given.best_ids)};
}

SamplingOutputs read_outputs(const Path& path, const tw_sampling_outputs* outputs) {
  const tw_sampling_outputs given = read_struct(path, outputs);
  return {read_tensor({path, "kept"}, given.kept),
          read_tensor({path, "probabilities"}, given.probabilities),
          read_tensor({path, "masked_logits"}, given.masked_logits),
          read_log_probs({path, "raw"}, given.raw),
          read_log_probs({path, "processed"}, given.processed)};
}

}  // namespace

SamplingArgs c_api::read_sampling_args(const Path& path, const tw_sampling_args* args) {
  const tw_sampling_args given = read_struct(path, args);
  SamplingArgs result;
  read_rows({path, "temperature"}, given.temperature, result.temperature);
  read_rows({path, "top_k"}, given.top_k, result.top_k);
  read_rows({path, "top_p"}, given.top_p, result.top_p);
  read_rows({path, "min_p"}, given.min_p, result.min_p);
  read_rows({path, "seeds"}, given.seeds, result.seeds);
  read_rows({path, "steps"}, given.steps, result.steps);
  result.stream = read_stream(given.stream);
  result.slots = read_tensor({path, "slots"}, given.slots);
  result.status = read_tensor({path, "status"}, given.status);
  result.allowed = read_tensor({path, "allowed"}, given.allowed);
  result.bias_ids = read_tensor({path, "bias_ids"}, given.bias_ids);
  result.bias_values = read_tensor({path, "bias_values"}, given.bias_values);
  result.output_counts = read_tensor({path, "output_counts"}, given.output_counts);
  result.prompt_bits = read_tensor({path, "prompt_bits"}, given.prompt_bits);
  read_rows({path, "repetition_penalty"}, given.repetition_penalty, result.repetition_penalty);
  read_rows({path, "frequency_penalty"}, given.frequency_penalty, result.frequency_penalty);
  read_rows({path, "presence_penalty"}, given.presence_penalty, result.presence_penalty);
  read_rows({path, "typical_p"}, given.typical_p, result.typical_p);
  result.order = read_enum({path, "order"}, given.order, FilterOrder::llamacpp);
  result.input = read_enum({path, "input"}, given.input, SamplingInput::probabilities);
  if (given.outputs != nullptr) result.outputs = read_outputs({path, "outputs"}, given.outputs);
  return result;
}

tw_status tw_sample(const tw_tensor* logits, const tw_sampling_args* args,
                    const tw_tensor* tokens) {
  return guarded([&] {
    sample(read_tensor("logits", logits), read_sampling_args("args", args),
           read_tensor("tokens", tokens));
  });
}

tw_status tw_top_k(const tw_tensor* logits, const tw_tensor* values, const tw_tensor* indices,
                   tw_stream stream) {
  return guarded([&] {
    top_k(read_tensor("logits", logits), read_tensor("values", values),
          read_tensor("indices", indices), read_stream(stream));
  });
}
