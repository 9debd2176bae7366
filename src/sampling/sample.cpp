// SPDX-License-Identifier: Apache-2.0
// Front end of sampling: rows over threads. What is computed: docs/sampling.md.
#include <tilewright/sampling.h>

#include "base/parallel.h"
#include "sampling/check_args.h"
#include "sampling/cuda_sample.h"
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
  const std::int32_t token = sampler.sample(process.any() ? sampler.process(list, process) : list,
                                            params, status, first_allowed(process, list.count));
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
