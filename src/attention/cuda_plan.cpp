// SPDX-License-Identifier: Apache-2.0
#include "attention/cuda_plan.h"

#include <algorithm>
#include <future>

#include "attention/attention_impl.h"
#include "attention/cuda_params.h"
#include "base/checks.h"

namespace tilewright {
namespace {

constexpr std::size_t kWorkspaceAlignment = 256;
// Of plan_source's entries.
constexpr std::size_t kCopyStatusEntry = 1;
constexpr unsigned kCopyThreads = 256;

}  // namespace

CudaKernels::CudaKernels(const AttentionSpec& spec, Device where)
    : CudaKernels(spec, CudaTarget::of_arch(cuda::device(where.index).arch)) {}

CudaKernels::CudaKernels(const AttentionSpec& spec, CudaTarget target)
    : any_batch_(spec, target, KernelUse::any_batch),
      decode_only_(spec, target, KernelUse::decode_only),
      spec_(spec),
      target_(target) {}

const CudaKernels::Kernel& CudaKernels::listed_blocks() const {
  std::call_once(listed_is_written_,
                 [&] { listed_blocks_.emplace(spec_, target_, KernelUse::listed_blocks); });
  return *listed_blocks_;
}

const CudaKernels::Kernel& CudaKernels::of(KernelUse use) const {
  switch (use) {
    case KernelUse::decode_only:
      return decode_only_;
    case KernelUse::listed_blocks:
      return listed_blocks();
    default:
      return any_batch_;
  }
}

std::vector<CudaPlan::Chosen> CudaPlan::choose(const std::vector<Attention>& attentions,
                                               const Limits& limits) {
  std::vector<Chosen> chosen;
  for (const Attention& attention : attentions) {
    const PlanUses uses = plan_uses(attention.spec(), limits);
    const CudaKernels& kernels = *attention.impl().cuda;
    chosen.push_back({&kernels.of(uses.requests), &kernels.of(uses.rows)});
  }
  return chosen;
}

std::vector<DevicePlan::Configs> CudaPlan::configs_of(const std::vector<Attention>& attentions,
                                                      const Limits& limits,
                                                      const cuda::Device& device) {
  const std::vector<Chosen> chosen = choose(attentions, limits);
  std::vector<DevicePlan::Configs> configs;
  for (std::size_t i = 0; i < attentions.size(); ++i) {
    configs.push_back(kernel_configs(attentions[i], chosen[i].requests->shape,
                                     chosen[i].rows->shape, device.num_sms, device.l2_bytes,
                                     limits));
  }
  return configs;
}

CudaPlan::CudaPlan(const std::vector<Attention>& attentions, const Limits& limits,
                   const TensorView& workspace)
    : device_(cuda::device(attentions[0].device().index)),
      limits_(limits),
      chosen_(choose(attentions, limits)),
      plan_(attentions, limits, configs_of(attentions, limits, device_), device_.num_sms),
      update_(plan_source(plan_.masks(), plan_.parts().size(), limits.block_structures)) {
  const std::size_t bytes = plan_.lay_out(nullptr);
  const cuda::ContextScope scope(device_);
  auto* base = static_cast<std::byte*>(workspace.data);
  if (!workspace.defined()) {
    owned_ = cuda::DeviceBuffer(device_, bytes);
    base = static_cast<std::byte*>(owned_.data());
  } else {
    require(workspace.shape[0] >= static_cast<std::int64_t>(bytes),
            "workspace has {} bytes: these limits need {}", workspace.shape[0], bytes);
    require(reinterpret_cast<std::uintptr_t>(base) % kWorkspaceAlignment == 0,
            "workspace is at {}: it must be aligned to {} bytes", fmt::ptr(workspace.data),
            kWorkspaceAlignment);
  }
  plan_.lay_out(base);
  cuda::fill_bytes(base, 0, plan_.state_bytes(), Stream{});
  cuda::synchronize(Stream{});
}

std::size_t CudaPlan::workspace_bytes(const std::vector<Attention>& attentions,
                                      const Limits& limits) {
  const cuda::Device& device = cuda::device(attentions[0].device().index);
  DevicePlan plan(attentions, limits, configs_of(attentions, limits, device), device.num_sms);
  return plan.lay_out(nullptr);
}

void CudaPlan::prepare() {
  std::vector<std::future<void>> compiling;
  const auto load = [&](const jit::KernelHandle& handle) {
    compiling.push_back(std::async(std::launch::async, [&] { handle.on(device_.index); }));
  };
  load(update_);
  for (const Chosen& chosen : chosen_) {
    load(chosen.requests->handle);
    load(chosen.rows->handle);
  }
  for (std::future<void>& one : compiling) one.get();
}

void CudaPlan::update(const Batch& batch, const std::vector<PlanInput>& inputs, Stream stream) {
  plan_.update(
      batch, inputs,
      [&](const UpdateLaunch& launch, Stream on) {
        update_.on(device_.index)
            .launch_bytes({.grid = static_cast<unsigned>(launch.blocks),
                           .block = static_cast<unsigned>(launch.threads),
                           .shared_bytes = static_cast<unsigned>(launch.shared_bytes),
                           .start = cuda::KernelStart::early},
                          on, launch.params, launch.params_bytes);
      },
      stream);
  // With num_requests given, qo_indptr may be longer than any batch.
  num_requests_ = static_cast<int>(std::min(batch.qo_indptr.shape[0] - 1, limits_.requests));
  last_stream_ = stream;
}

const DevicePlan::Part& CudaPlan::part(const Attention& attention) const {
  const auto& parts = plan_.parts();
  const auto found = std::find_if(parts.begin(), parts.end(), [&](const DevicePlan::Part& one) {
    return one.attention == attention;
  });
  if (found == parts.end()) {
    raise(ErrorCode::invalid_state,
          "plan was not made for this attention: give it to the plan's constructor");
  }
  return *found;
}

void CudaPlan::run(const DevicePlan::Part& part, const CudaCall& call) {
  const Chosen& chosen = chosen_[static_cast<std::size_t>(&part - plan_.parts().data())];
  const CudaKernels::Kernel& kernel =
      part.view.token_levels == nullptr ? *chosen.requests : *chosen.rows;
  const AttentionLaunch launch =
      attention_launch(plan_, part, kernel.shape, device_.num_sms, call, boxes_);
  kernel.handle.on(device_.index, kAttentionEntry)
      .launch_bytes({.grid = launch.blocks,
                     .block = static_cast<unsigned>(kernel.shape.threads),
                     .shared_bytes = static_cast<unsigned>(kernel.shape.shared_bytes),
                     .start = cuda::KernelStart::early},
                    call.stream, &launch.params, launch.params_bytes);
  if (launch.join_blocks == 0) return;
  kernel.handle.on(device_.index, kJoinEntry)
      .launch<tw::AttentionParams>(
          {.grid = launch.join_blocks, .block = kJoinThreads, .start = cuda::KernelStart::early},
          call.stream, launch.params);
}

void CudaPlan::require_not_captured(const char* what) const {
  if (!cuda::is_capturing(last_stream_)) return;
  raise(ErrorCode::invalid_state,
        "plan.{}(): the stream of the last update is being captured into a graph: ask after the "
        "graph ran",
        what);
}

std::vector<std::int32_t> CudaPlan::status() const {
  if (num_requests_ == 0) return {};
  const cuda::ContextScope scope(device_);
  require_not_captured("status");
  const auto stride = static_cast<std::size_t>(limits_.requests + 1);
  std::vector<std::int32_t> words(2 * stride);
  std::int32_t turn = 0;
  cuda::copy_to_host(words.data(), plan_.status().words, words.size() * sizeof(words[0]),
                     last_stream_);
  cuda::copy_to_host(&turn, &plan_.parts()[0].view.schedule.header->status_turn, sizeof(turn),
                     last_stream_);
  cuda::synchronize(last_stream_);
  const auto first = words.begin() + static_cast<std::ptrdiff_t>(stride) * (turn & 1);
  return {first, first + num_requests_};
}

void CudaPlan::copy_status(const TensorView& words, Stream stream) const {
  if (num_requests_ == 0) return;
  const cuda::ContextScope scope(device_);
  plan::StatusCopy copy = plan_.status_copy(num_requests_);
  copy.to = static_cast<std::int32_t*>(cuda::address_on_device(words.data));
  require(copy.to != nullptr,
          "words is at {}: it must be page-locked memory (cudaHostAlloc, torch's pin_memory())",
          fmt::ptr(words.data));
  update_.on(device_.index, kCopyStatusEntry)
      .launch({.grid = 1, .block = kCopyThreads}, stream, copy);
}

bool CudaPlan::is_captured(Stream call) const {
  const cuda::ContextScope scope(device_);
  return cuda::is_capturing(call) || cuda::is_capturing(last_stream_);
}

DeviceRecords CudaPlan::records(const char* what, const Attention& attention) const {
  const DevicePlan::Part& of = part(attention);
  const cuda::ContextScope scope(device_);
  require_not_captured(what);
  return {of,
          {[&](void* to, const void* from, std::size_t bytes) {
             cuda::copy_to_host(to, from, bytes, last_stream_);
           },
           [&] { cuda::synchronize(last_stream_); }}};
}

}  // namespace tilewright
