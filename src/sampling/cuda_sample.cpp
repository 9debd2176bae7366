// SPDX-License-Identifier: Apache-2.0
#include "sampling/cuda_sample.h"

#include <fmt/format.h>

namespace tilewright {
namespace {

constexpr std::int32_t kThreads = 512;

template <typename To, typename From>
tw::RowValues<To> row_values(const PerRow<From>& argument) {
  return {argument.tensor.data, argument.tensor.strides[0], static_cast<To>(argument.value)};
}

}  // namespace

std::string sample_kernel_name(DType logits) {
  return fmt::format("sample_{}", device_type_name(logits));
}

std::string sample_kernel_text(DType logits) {
  return fmt::format(
      "#include \"sampling/sample.h\"\n"
      "using namespace tw;\n"
      "TW_KERNEL TW_LAUNCH_BOUNDS({}, 1) {}(TW_PARAMETER SampleParams params) {{\n"
      "  sample<{}>(params);\n"
      "}}\n",
      kThreads, sample_kernel_name(logits), device_type_name(logits));
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
  params.temperature = row_values<float>(args.temperature);
  params.top_k = row_values<tw::i32>(args.top_k);
  params.top_p = row_values<float>(args.top_p);
  params.min_p = row_values<float>(args.min_p);
  params.seeds = row_values<tw::i64>(args.seeds);
  params.steps = row_values<tw::i64>(args.steps);
  params.tokens_64 = tokens.dtype == DType::i64 ? 1 : 0;
  params.vocabulary = static_cast<std::int32_t>(logits.shape[1]);
  params.aligned = has_aligned_runs(logits) ? 1 : 0;
  return launch;
}

}  // namespace tilewright
namespace tilewright {
void sample_on_cuda(const TensorView&, const SamplingArgs&, const TensorView&) {}
}
