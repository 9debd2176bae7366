// SPDX-License-Identifier: Apache-2.0
#include "sampling/cuda_sample.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "jit/kernel_handle.h"
#include "sampling/check_args.h"

namespace tilewright {
namespace {

constexpr std::int32_t kThreads = 512;

template <typename To, typename From>
tw::RowValues<To> row_values(const PerRow<From>& argument) {
  return {argument.tensor.data, argument.tensor.strides[0], static_cast<To>(argument.value)};
}

tw::RowTable row_table(const TensorView& table) {
  return {table.data, table.strides[0]};
}

const jit::KernelHandle& handle_of(DType logits) {
  // Never destroyed: threads may sample while the process ends.
  static const auto* const f32 = new jit::KernelHandle(sample_kernel_source(DType::f32));
  static const auto* const f16 = new jit::KernelHandle(sample_kernel_source(DType::f16));
  static const auto* const bf16 = new jit::KernelHandle(sample_kernel_source(DType::bf16));
  return logits == DType::f32 ? *f32 : logits == DType::f16 ? *f16 : *bf16;
}

}  // namespace

std::string sample_kernel_name(DType logits) {
  return fmt::format("sample_{}", device_type_name(logits));
}

jit::KernelSource sample_kernel_source(DType logits) {
  jit::KernelSource source;
  source.name = sample_kernel_name(logits);
  source.entries = {source.name};
  source.budget.max_registers = 65536 / kThreads;
  source.shared_bytes = tw::kSampleSharedBytes;
  source.source = fmt::format(
      "#include \"sampling/sample.h\"\n"
      "using namespace tw;\n"
      "TW_KERNEL TW_LAUNCH_BOUNDS({}, 1) {}(TW_PARAMETER SampleParams params) {{\n"
      "  sample<{}>(params);\n"
      "}}\n",
      kThreads, source.name, device_type_name(logits));
  return source;
}

CudaLaunch<tw::SampleParams> sample_launch(const TensorView& logits, const SamplingArgs& args,
                                           const TensorView& tokens) {
  CudaLaunch<tw::SampleParams> launch;
  launch.grid = cuda_count(logits.shape[0], "rows");
  launch.block = kThreads;
  launch.shared_bytes = tw::kSampleSharedBytes;
  tw::SampleParams& params = launch.params;
  params.logits = logits.data;
  params.logits_stride = logits.strides[0];
  params.tokens = tokens.data;
  params.tokens_stride = tokens.strides[0];
  params.slots = args.slots.data;
  params.slots_stride = args.slots.strides[0];
  params.entries = static_cast<std::int32_t>(
      std::min<std::int64_t>(sampling_entries(args), std::numeric_limits<std::int32_t>::max()));
  params.status = args.status.data;
  params.status_stride = args.status.strides[0];
  params.temperature = row_values<float>(args.temperature);
  params.top_k = row_values<tw::i32>(args.top_k);
  params.top_p = row_values<float>(args.top_p);
  params.min_p = row_values<float>(args.min_p);
  params.typical_p = row_values<float>(args.typical_p);
  params.seeds = row_values<tw::i64>(args.seeds);
  params.steps = row_values<tw::i64>(args.steps);
  params.order = static_cast<tw::Order>(args.order);
  params.process.allowed = row_table(args.allowed);
  if (args.bias_ids.defined() && args.bias_ids.shape[1] > 0) {
    params.process.bias_ids = row_table(args.bias_ids);
    params.process.bias_values = row_table(args.bias_values);
    params.process.biases = cuda_count(args.bias_ids.shape[1], "biases");
  }
  params.process.output_counts = row_table(args.output_counts);
  params.process.prompt_bits = row_table(args.prompt_bits);
  params.process.repetition = row_values<float>(args.repetition_penalty);
  params.process.frequency = row_values<float>(args.frequency_penalty);
  params.process.presence = row_values<float>(args.presence_penalty);
  params.tokens_64 = tokens.dtype == DType::i64 ? 1 : 0;
  params.vocabulary = static_cast<std::int32_t>(logits.shape[1]);
  params.aligned = has_aligned_runs(logits) ? 1 : 0;
  return launch;
}

void sample_on_cuda(const TensorView& logits, const SamplingArgs& args, const TensorView& tokens) {
  const CudaLaunch<tw::SampleParams> launch = sample_launch(logits, args, tokens);
  if (launch.grid == 0) return;
  handle_of(logits.dtype)
      .on(logits.device.index)
      .launch({static_cast<unsigned>(launch.grid), static_cast<unsigned>(launch.block),
               static_cast<unsigned>(launch.shared_bytes)},
              args.stream, launch.params);
}

}  // namespace tilewright
