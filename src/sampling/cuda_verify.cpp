// SPDX-License-Identifier: Apache-2.0
#include "sampling/cuda_verify.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "base/checks.h"
#include "jit/kernel_handle.h"
#include "sampling/cuda_sample.h"

namespace tilewright {
namespace {

constexpr std::int32_t kThreads = 512;

constexpr DType kDTypes[] = {DType::f32, DType::f16, DType::bf16};

const jit::KernelHandle& handle_of(VerifyKernel kernel, DType target) {
  struct Handles {
    jit::KernelHandle of[3];
    explicit Handles(VerifyKernel kernel)
        : of{jit::KernelHandle(verify_kernel_source(kernel, kDTypes[0])),
             jit::KernelHandle(verify_kernel_source(kernel, kDTypes[1])),
             jit::KernelHandle(verify_kernel_source(kernel, kDTypes[2]))} {}
  };
  // Never destroyed: threads may verify while the process ends.
  static const auto* const rows = new Handles(VerifyKernel::rows);
  static const auto* const requests = new Handles(VerifyKernel::requests);
  const Handles& handles = kernel == VerifyKernel::rows ? *rows : *requests;
  return handles
      .of[std::find(std::begin(kDTypes), std::end(kDTypes), target) - std::begin(kDTypes)];
}

tw::NodeRows node_rows(const TensorView& rows) {
  return {rows.data, rows.strides[0], rows.strides[1]};
}

tw::RequestTable request_table(const TensorView& table) {
  return {table.data, table.strides[0], table.rank == 2 ? table.strides[1] : 0,
          table.dtype == DType::i64 ? 1 : 0};
}

}  // namespace

std::int64_t verify_workspace_size(std::int64_t requests, std::int64_t positions) {
  require(requests >= 0, "requests is {}: it must not be negative", requests);
  require(positions >= 0, "positions is {}: it must not be negative", positions);
  return requests * positions * tw::kNodeWords;
}

std::string verify_kernel_name(VerifyKernel kernel, DType target) {
  return fmt::format("verify_{}_{}", kernel == VerifyKernel::rows ? "rows" : "requests",
                     device_type_name(target));
}

jit::KernelSource verify_kernel_source(VerifyKernel kernel, DType target) {
  const bool rows = kernel == VerifyKernel::rows;
  jit::KernelSource source;
  source.name = verify_kernel_name(kernel, target);
  source.entries = {source.name};
  source.budget.max_registers = 65536 / kThreads;
  source.shared_bytes = rows ? tw::kSampleSharedBytes : tw::kVerifySharedBytes;
  source.source = fmt::format(
      "#include \"sampling/verify_{0}.h\"\n"
      "using namespace tw;\n"
      "TW_KERNEL TW_LAUNCH_BOUNDS({1}, 1) {2}(TW_PARAMETER VerifyParams params) {{\n"
      "  verify_{0}<{3}>(params);\n"
      "}}\n",
      rows ? "rows" : "requests", kThreads, source.name, device_type_name(target));
  return source;
}

std::vector<jit::KernelSource> verify_kernel_sources() {
  std::vector<jit::KernelSource> sources;
  for (const DType dtype : kDTypes) {
    for (const VerifyKernel kernel : {VerifyKernel::rows, VerifyKernel::requests})
      sources.push_back(verify_kernel_source(kernel, dtype));
  }
  return sources;
}

CudaLaunch<tw::VerifyParams> verify_launch(VerifyKernel kernel, const VerifyCall& call) {
  const VerifyArgs& args = call.args;
  CudaLaunch<tw::VerifyParams> launch;
  tw::VerifyParams& params = launch.params;
  // Its rows are requests here.
  params.sample = sample_launch(SampleKernel::block, call.target.select(1, 0), args.sampling,
                                call.tokens.select(1, 0))
                      .params;
  params.target = node_rows(call.target);
  params.draft = node_rows(args.draft);
  // Probabilities are used as they are.
  if (args.input == VerifyInput::logits) params.allowed = node_rows(args.allowed);
  params.draft_tokens = request_table(call.draft_tokens);
  params.next_token = request_table(call.next_token);
  params.next_sibling = request_table(call.next_sibling);
  params.coins = request_table(args.coins);
  params.final_coins = request_table(args.final_coins);
  params.tokens = request_table(call.tokens);
  params.on_path = request_table(call.nodes);
  params.counts = request_table(call.counts);
  params.emitted = request_table(call.emitted);
  params.accepted = request_table(call.accepted);
  params.status = request_table(args.status);
  params.workspace = args.workspace.data;
  params.threshold_single = args.threshold_single;
  params.threshold_acc = args.threshold_acc;
  params.probabilities = args.input == VerifyInput::probabilities ? 1 : 0;
  params.requests = cuda_count(call.requests(), "requests");
  params.nodes = cuda_count(call.num_nodes(), "positions");
  params.drafts = args.draft.defined() ? cuda_count(args.draft.shape[1], "positions") : 0;
  params.first_token = static_cast<std::int32_t>(call.first_token());
  params.length = cuda_count(call.tokens.shape[1], "tokens");
  params.target_aligned = has_aligned_runs(call.target) ? 1 : 0;
  params.draft_aligned = args.draft.defined() && has_aligned_runs(args.draft) ? 1 : 0;
  launch.block = kThreads;
  if (kernel == VerifyKernel::rows) {
    const std::int64_t rows = call.num_nodes() + params.drafts;
    launch.grid = cuda_count(call.requests() * rows, "rows");
    launch.shared_bytes = tw::kSampleSharedBytes;
  } else {
    launch.grid = params.requests;
    launch.shared_bytes = tw::kVerifySharedBytes;
  }
  return launch;
}

void verify_on_cuda(const VerifyCall& call) {
  for (const VerifyKernel kernel : {VerifyKernel::rows, VerifyKernel::requests}) {
    const CudaLaunch<tw::VerifyParams> launch = verify_launch(kernel, call);
    if (launch.grid == 0) return;
    handle_of(kernel, call.target.dtype)
        .on(call.target.device.index)
        .launch({.grid = static_cast<unsigned>(launch.grid),
                 .block = static_cast<unsigned>(launch.block),
                 .shared_bytes = static_cast<unsigned>(launch.shared_bytes)},
                call.args.sampling.stream, launch.params);
  }
}

}  // namespace tilewright
