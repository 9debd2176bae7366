// SPDX-License-Identifier: Apache-2.0
#include "attention/cuda_plan.h"

#include <algorithm>
#include <future>
#include <type_traits>

#include "attention/attention_impl.h"
#include "attention/device_config.h"
#include "attention/params.h"
#include "base/checks.h"

namespace tilewright {
namespace {

static_assert(std::is_trivially_copyable_v<tw::AttentionParams>);

constexpr std::size_t kWorkspaceAlignment = 256;
constexpr float kLog2E = 1.4426950408889634F;

tw::CacheView view_of(const KvCache& cache) {
  const auto k_bytes = dtype_bytes(cache.k.dtype);
  const auto v_bytes = dtype_bytes(cache.v.dtype);
  tw::CacheView view{};
  view.k = static_cast<const char*>(cache.k.data);
  view.v = static_cast<const char*>(cache.v.data);
  view.k_page = cache.k.strides[0] * k_bytes;
  view.k_token = cache.k.strides[1] * k_bytes;
  view.k_head = cache.k.strides[2] * k_bytes;
  view.v_page = cache.v.strides[0] * v_bytes;
  view.v_token = cache.v.strides[1] * v_bytes;
  view.v_head = cache.v.strides[2] * v_bytes;
  view.pages = static_cast<std::int32_t>(std::min(cache.k.shape[0], cache.v.shape[0]));
  return view;
}

tw::ScaleView view_of(const Scale& scale) {
  const TensorView& t = scale.tensor;
  if (!t.defined()) return {nullptr, scale.value, 0, 0};
  const auto stride = [&](int dim) {
    return t.rank == 2 && t.shape[static_cast<std::size_t>(dim)] > 1
               ? static_cast<std::int32_t>(t.strides[static_cast<std::size_t>(dim)])
               : 0;
  };
  return {static_cast<const float*>(t.data), 1.0F, stride(0), stride(1)};
}

bool is_one(const Scale& scale) {
  return !scale.tensor.defined() && scale.value == 1.0F;
}

// Rows of 16-byte units.
void require_aligned(std::string_view name, const TensorView& t) {
  const std::int64_t bytes = dtype_bytes(t.dtype);
  bool aligned = reinterpret_cast<std::uintptr_t>(t.data) % 16 == 0;
  for (int dim = 0; dim + 1 < t.rank; ++dim) {
    const auto d = static_cast<std::size_t>(dim);
    aligned = aligned && (t.shape[d] <= 1 || t.strides[d] * bytes % 16 == 0);
  }
  require(aligned,
          "{} is {} at {}: on CUDA its address and its strides must be multiples of 16 bytes", name,
          t, fmt::ptr(t.data));
}

bool rows_aligned(const TensorView& t, std::int64_t bytes) {
  const std::int64_t element = dtype_bytes(t.dtype);
  return reinterpret_cast<std::uintptr_t>(t.data) % static_cast<std::uintptr_t>(bytes) == 0 &&
         t.strides[0] * element % bytes == 0 && t.strides[1] * element % bytes == 0;
}

}  // namespace

CudaKernels::CudaKernels(const AttentionSpec& spec, Device where)
    : any_batch(spec, CudaTarget::of_arch(cuda::device(where.index).arch), KernelUse::any_batch),
      decode_only(spec, CudaTarget::of_arch(cuda::device(where.index).arch),
                  KernelUse::decode_only) {}

const CudaKernels::Kernel& CudaPlan::usual_kernel(const Attention& attention,
                                                  const Limits& limits) {
  const CudaKernels& kernels = *attention.impl().cuda;
  const bool few_rows =
      limits.q_len * attention.spec().group_size() <= CudaShape::kDecodeRows && limits.levels == 1;
  // Decode's sums have another order than those of longer rows.
  const bool decode = few_rows && limits.determinism != Determinism::batch_invariant;
  return decode ? kernels.decode_only : kernels.any_batch;
}

std::vector<plan::Config> CudaPlan::configs_of(const std::vector<Attention>& attentions,
                                               const Limits& limits, const cuda::Device& device) {
  std::vector<plan::Config> configs;
  for (const Attention& attention : attentions) {
    const CudaShape& shape = usual_kernel(attention, limits).shape;
    // Blocks of threads that are resident at a time are what plans call workers.
    plan::Config config = cuda_config(
        attention.spec(), {device.num_sms * shape.blocks_per_sm, device.l2_bytes}, limits);
    config.block_tokens = shape.block_tokens;
    configs.push_back(config);
  }
  return configs;
}

CudaPlan::CudaPlan(const std::vector<Attention>& attentions, const Limits& limits,
                   const TensorView& workspace)
    : device_(cuda::device(attentions[0].device().index)),
      limits_(limits),
      plan_(attentions, limits, configs_of(attentions, limits, device_), device_.num_sms),
      update_(plan_source(plan_.masks(), plan_.parts().size())) {
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
  for (const DevicePlan::Part& part : plan_.parts()) {
    load(usual_kernel(part.attention, limits_).handle);
    // Rows of a level may cover many requests.
    load(part.attention.impl().cuda->any_batch.handle);
  }
  for (std::future<void>& one : compiling) one.get();
}

void CudaPlan::update(const Batch& batch, const std::vector<PlanInput>& inputs, Stream stream) {
  plan_.update(
      batch, inputs,
      [&](const UpdateLaunch& launch, Stream on) {
        update_.on(device_.index)
            .launch_bytes(
                {static_cast<unsigned>(launch.blocks), static_cast<unsigned>(launch.threads),
                 static_cast<unsigned>(launch.shared_bytes), device_.has_programmatic_launch()},
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

void CudaPlan::run(const DevicePlan::Part& part, const CudaCall& call,
                   const Bindings& bindings) const {
  const AttentionSpec& spec = part.attention.spec();
  // Rows that are not simply the requests may have any number of queries.
  const CudaKernels::Kernel& kernel = part.view.token_levels == nullptr
                                          ? usual_kernel(part.attention, limits_)
                                          : part.attention.impl().cuda->any_batch;
  require_aligned("q", call.q);
  tw::AttentionParams params{};
  params.plan = part.view;
  for (int level = 0; level < part.view.num_levels; ++level) {
    const KvCache& cache = call.kv[level];
    // Where a page id is none of the cache's the first page is read, and what it gives does not
    // count. A cache without pages (an empty prefix) has no byte for that: the workspace has.
    if (cache.k.shape[0] == 0 || cache.v.shape[0] == 0) {
      params.cache[level].k = params.cache[level].v =
          reinterpret_cast<const char*>(plan_.run_memory().slots);
      continue;
    }
    require_aligned("kv.k", cache.k);
    require_aligned("kv.v", cache.v);
    params.cache[level] = view_of(cache);
  }
  const std::int64_t q_bytes = dtype_bytes(call.q.dtype);
  params.q = static_cast<const char*>(call.q.data);
  params.q_token = call.q.strides[0] * q_bytes;
  params.q_head = call.q.strides[1] * q_bytes;
  const std::int64_t out_bytes = dtype_bytes(call.out.dtype);
  params.out = static_cast<char*>(call.out.data);
  params.out_token = call.out.strides[0] * out_bytes;
  params.out_head = call.out.strides[1] * out_bytes;
  params.out_aligned = rows_aligned(call.out, 4 * out_bytes) ? 1 : 0;
  params.out_tokens = static_cast<std::int32_t>(std::min(call.q.shape[0], call.out.shape[0]));
  params.padded_tokens = static_cast<std::int32_t>(call.out.shape[0]);
  params.zero_padding = call.zero_padding ? 1 : 0;
  if (call.lse.defined()) {
    params.lse = static_cast<float*>(call.lse.data);
    params.lse_token = call.lse.strides[0];
    params.lse_head = call.lse.strides[1];
  }
  params.sm_scale = call.sm_scale;
  params.scales_logits =
      !(call.sm_scale > 0) || !is_one(call.q_scale) || !is_one(call.k_scale) ? 1 : 0;
  params.exponent_scale = kLog2E;
  if (params.scales_logits == 0 && !spec.variant.logits.defined()) {
    params.exponent_scale *= call.sm_scale;
  }
  params.q_scale = view_of(call.q_scale);
  params.k_scale = view_of(call.k_scale);
  params.v_scale = view_of(call.v_scale);
  params.out_scale = view_of(call.out_scale);
  if (call.sinks.defined()) {
    params.sinks = static_cast<const float*>(call.sinks.data);
    params.sinks_stride = call.sinks.strides[0];
  }
  for (std::size_t i = 0; i < part.attention.impl().variant.binder.params().size(); ++i) {
    params.params[i] = param_slot(bindings.params[i]);
  }
  const DevicePlan::RunMemory& memory = plan_.run_memory();
  params.slots = reinterpret_cast<float*>(memory.slots);
  params.level_results = reinterpret_cast<float*>(memory.levels);
  params.split_arrivals = memory.arrivals;
  params.a_taken = memory.a_taken;
  params.status = reinterpret_cast<const std::int32_t*>(plan_.status().words);
  params.status_stride = static_cast<std::int32_t>(limits_.requests + 1);

  const bool programmatic = device_.has_programmatic_launch();
  const auto grid = static_cast<unsigned>(
      std::min(device_.num_sms * kernel.shape.blocks_per_sm, part.view.schedule.config.workers));
  kernel.handle.on(device_.index, kAttentionEntry)
      .launch({grid, static_cast<unsigned>(kernel.shape.threads),
               static_cast<unsigned>(kernel.shape.shared_bytes), programmatic},
              call.stream, params);
  if (part.view.token_levels == nullptr) return;
  constexpr std::int64_t kRowsABlock = 8;
  const std::int64_t rows = limits_.q_tokens * spec.num_qo_heads;
  const auto blocks = static_cast<unsigned>(
      std::min<std::int64_t>(plan::ceil_div(rows, kRowsABlock), device_.num_sms * 8));
  kernel.handle.on(device_.index, kJoinEntry)
      .launch({blocks, 32 * kRowsABlock, 0, programmatic}, call.stream, params);
}

std::vector<std::int32_t> CudaPlan::status() const {
  if (num_requests_ == 0) return {};
  const cuda::ContextScope scope(device_);
  if (cuda::is_capturing(last_stream_)) {
    raise(ErrorCode::invalid_state,
          "plan.status(): the stream of the last update is being captured into a graph: ask after "
          "the graph ran");
  }
  const auto stride = static_cast<std::size_t>(limits_.requests + 1);
  std::vector<std::int32_t> words(2 * stride);
  std::int32_t turn = 0;
  cuda::copy_to_host(words.data(), plan_.status().words, words.size() * sizeof(words[0]),
                     last_stream_);
  cuda::copy_to_host(&turn, &plan_.parts()[0].view.schedule.header->status_turn, sizeof(turn),
                     last_stream_);
  cuda::synchronize(last_stream_);
  const auto first = words.begin() + static_cast<std::ptrdiff_t>(stride) * turn;
  return {first, first + num_requests_};
}

}  // namespace tilewright
