// SPDX-License-Identifier: Apache-2.0
// Front end of sampling: rows over threads. What is computed: docs/sampling.md.
#include <tilewright/sampling.h>

#include "sampling/check_args.h"
#include "sampling/cuda_sample.h"
#include "sampling/outputs.h"
#include "sampling/philox.h"
#include "sampling/process.h"
#include "sampling/row_sampler.h"

namespace tilewright {
namespace {

void sample_row(RowSampler& sampler, const TensorView& logits, const SamplingArgs& args,
                const TensorView& tokens, std::int64_t row) {
  Logits list;
  list.values = static_cast<const std::byte*>(logits.data) +
                row * logits.strides[0] * dtype_bytes(logits.dtype);
  list.dtype = logits.dtype;
  list.count = logits.shape[1];
  const std::int64_t entry = entry_of(args, row);
  RowParams params;
  params.temperature = value_of(args.temperature, entry);
  params.top_k = value_of(args.top_k, entry);
  params.top_p = value_of(args.top_p, entry);
  params.min_p = value_of(args.min_p, entry);
  params.typical_p = value_of(args.typical_p, entry);
  params.order = args.order;
  params.random = sampling_bits(value_of(args.seeds, entry), value_of(args.steps, entry));
  std::int32_t* status = nullptr;
  if (args.status.defined()) {
    status = static_cast<std::int32_t*>(args.status.data) + row * args.status.strides[0];
  }
  const RowProcess process = row_process_of(args, entry, list.count);
  params.probabilities = args.input == SamplingInput::probabilities;
  std::uint32_t status_of_input = 0;
  const Logits done = params.probabilities ? sampler.take_probabilities(list, status_of_input)
                      : process.any()      ? sampler.process(list, process)
                                           : list;
  const bool wants_outputs = any_wanted(args.outputs);
  Survivors survivors;
  const std::int32_t token =
      sampler.sample(done, params, status, first_allowed(process, list.count),
                     wants_outputs ? &survivors : nullptr);
  if (status != nullptr) *status |= static_cast<std::int32_t>(status_of_input);
  if (wants_outputs) {
    store_outputs(args.outputs, row, done, survivors);
    if (is_wanted(args.outputs.processed)) {
      store_log_probs(args.outputs.processed, row, survivors, token);
    }
    if (is_wanted(args.outputs.raw)) {
      const Survivors all =
          sampler.all_tokens(params.probabilities ? done : list, params.probabilities);
      store_log_probs(args.outputs.raw, row, all, token);
    }
  }
  if (!tokens.defined()) return;
  const std::int64_t at = row * tokens.strides[0];
  if (tokens.dtype == DType::i64) {
    static_cast<std::int64_t*>(tokens.data)[at] = token;
  } else {
    static_cast<std::int32_t*>(tokens.data)[at] = token;
  }
}

}  // namespace

void sample(const TensorView& logits, const SamplingArgs& args, const TensorView& tokens) {
  check_sampling(logits, args, tokens);
  if (logits.device.type == DeviceType::cuda) {
    sample_on_cuda(logits, args, tokens);
    return;
  }
  for_rows_by_samplers(logits, [&](RowSampler& sampler, std::int64_t row) {
    sample_row(sampler, logits, args, tokens, row);
  });
}

}  // namespace tilewright
