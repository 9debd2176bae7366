// SPDX-License-Identifier: Apache-2.0
#include "attention_cuda/emulated_attention.h"

#include <cstring>
#include <stdexcept>

#include "attention/attention_impl.h"
#include "attention/update_kernel.h"
#include "runtime/machine.h"

namespace tilewright::test {
namespace {

const EmulatedKernels* find_kernels(const AttentionSpec& spec, CudaTarget target, KernelUse use) {
  static const std::vector<EmulatedKernels> all = all_emulated_kernels();
  const std::string attention = attention_source(spec, target, use).source;
  const std::string plan =
      plan_source({mask_of(spec.variant)}, 1, use == KernelUse::listed_blocks).source;
  for (const EmulatedKernels& kernels : all) {
    if (kernels.attention_text == attention && kernels.plan_text == plan) return &kernels;
  }
  return nullptr;
}

EmulatedKernels kernels_of(const AttentionSpec& spec, CudaTarget target, KernelUse use) {
  const EmulatedKernels* const kernels = find_kernels(spec, target, use);
  if (kernels != nullptr) return *kernels;
  throw std::logic_error("compiled_cases() has no kernels of this attention:\n" +
                         attention_source(spec, target, use).source);
}

constexpr std::int64_t kL2Bytes = std::int64_t{1} << 20;

// As the driver's: the emulator's map is the description.
bool encode_box_map(const cuda::BoxTensor& tensor, void* map) {
  const tw::emulator::BoxTensor made{
      static_cast<const char*>(tensor.data),
      {tensor.shape[0], tensor.shape[1], tensor.shape[2], tensor.shape[3]},
      {tensor.strides[0], tensor.strides[1], tensor.strides[2], tensor.strides[3]},
      tensor.box_tokens};
  std::memcpy(map, &made, sizeof(made));
  return true;
}

// As CudaPlan chooses, where both are compiled.
KernelUse use_of(const AttentionSpec& spec, CudaTarget target, const Limits& limits) {
  const PlanUses uses = plan_uses(spec, limits);
  return find_kernels(spec, target, uses.requests) != nullptr ? uses.requests : uses.rows;
}

}  // namespace

GuardedCopies::Copy& GuardedCopies::copy(const TensorView& host, const char* name) {
  Copy& made = copies_.emplace_back();
  made.view = host;
  if (!host.defined()) return made;
  made.host = host.data;
  made.body = body_bytes(host);
  // Addresses stay as far from a multiple of 16 as they were.
  made.shift = reinterpret_cast<std::uintptr_t>(host.data) % 16;
  made.buffer = std::make_unique<tw::emulator::GuardedBuffer>(name, made.shift + made.body);
  made.view.data = made.buffer->data() + made.shift;
  std::memcpy(made.view.data, made.host, made.body);
  return made;
}

TensorView GuardedCopies::operator()(const TensorView& host) {
  Copy& made = copy(host, "a tensor that is read");
  if (made.buffer != nullptr) made.buffer->make_read_only();
  return made.view;
}

TensorView GuardedCopies::written(const TensorView& host) {
  Copy& made = copy(host, "a tensor that is written");
  if (made.buffer != nullptr) written_.push_back(&made);
  return made.view;
}

void GuardedCopies::download() {
  for (const Copy* made : written_) {
    EXPECT_TRUE(made->buffer->intact());
    std::memcpy(made->host, made->view.data, made->body);
  }
}

void GuardedCopies::reset() {
  for (const Copy* made : written_) std::memcpy(made->view.data, made->host, made->body);
}

EmulatedAttention::EmulatedAttention(const AttentionSpec& spec, CudaTarget target,
                                     const Limits& limits, int num_sms)
    : target_(target),
      use_(use_of(spec, target, limits)),
      shape_(cuda_shape(spec, target, use_)),
      num_sms_(num_sms),
      attention_(spec),
      plan_({attention_}, limits,
            {kernel_configs(attention_, shape_,
                            cuda_shape(spec, target, plan_uses(spec, limits).rows), num_sms,
                            kL2Bytes, limits)},
            num_sms),
      kernels_(kernels_of(spec, target, use_)),
      boxes_(encode_box_map),
      workspace_(
          std::make_unique<tw::emulator::GuardedBuffer>("workspace", plan_.lay_out(nullptr))) {
  plan_.lay_out(reinterpret_cast<std::byte*>(workspace_->data()));
  std::memset(workspace_->data(), 0, plan_.state_bytes());
}

void EmulatedAttention::update(const Batch& batch, const std::vector<KvLevel>& levels,
                               const std::vector<ParamValue>& params, std::uint64_t seed,
                               const BlockStructure& blocks) {
  PlanInput input(attention_, levels, params);
  input.blocks = blocks;
  plan_.update(batch, {input},
               [&](const UpdateLaunch& launch, Stream) {
                 plan::UpdateParams<1> update;
                 ASSERT_EQ(sizeof(update), launch.params_bytes);
                 std::memcpy(static_cast<void*>(&update), launch.params, sizeof(update));
                 // Fewer threads than a GPU would be given: any number does.
                 tw::emulator::launch(kernels_.update_plan,
                                      {.grid = launch.blocks,
                                       .block = 64,
                                       .shared_bytes = static_cast<tw::i64>(launch.shared_bytes),
                                       .seed = seed},
                                      update);
               },
               {});
  num_requests_ = static_cast<int>(batch.qo_indptr.shape[0] - 1);
}

void EmulatedAttention::run(const TensorView& q, const std::vector<KvCache>& kv,
                            const RunArgs& args, std::uint64_t seed) {
  const CudaCall call = check_cuda_call(part(), num_requests_, q, kv.data(), kv.size(), args);
  // Rows that are not simply the requests may have any number of queries.
  const bool plain = part().view.token_levels == nullptr;
  const AttentionSpec& spec = attention_.spec();
  const KernelUse use = plain ? use_ : plan_uses(spec, plan_.limits()).rows;
  const CudaShape shape = plain ? shape_ : cuda_shape(spec, target_, use);
  const EmulatedKernels kernels = plain ? kernels_ : kernels_of(spec, target_, use);
  const AttentionLaunch launch = attention_launch(plan_, part(), shape, num_sms_, call, boxes_);
  const tw::emulator::Launch grid{.grid = static_cast<int>(launch.blocks),
                                  .block = shape.threads,
                                  .shared_bytes = shape.shared_bytes,
                                  .seed = seed,
                                  .max_resident_blocks = 1 + static_cast<int>(seed % 3)};
  if (shape.kind == KernelKind::hopper) {
    tw::emulator::launch(kernels.hopper_attention, grid, launch.params);
  } else {
    tw::emulator::launch(kernels.attention, grid, launch.params);
  }
  if (launch.join_blocks > 0) {
    tw::emulator::launch(
        kernels.join_levels,
        {.grid = static_cast<int>(launch.join_blocks), .block = kJoinThreads, .seed = seed},
        launch.params);
  }
  // As the next run needs it.
  EXPECT_EQ(*plan_.run_memory().a_taken, 0);
  for (int worker = 0; worker < part().view.schedule.config.workers; ++worker) {
    EXPECT_EQ(plan_.run_memory().arrivals[worker], 0) << worker;
  }
  EXPECT_TRUE(workspace_->intact());
}

std::vector<std::uint32_t> EmulatedAttention::status(std::int64_t requests) const {
  const std::uint32_t* const words =
      plan_.status().words + header().status_turn * (plan_.limits().requests + 1);
  return {words, words + requests};
}

}  // namespace tilewright::test
