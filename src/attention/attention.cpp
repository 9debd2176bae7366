// SPDX-License-Identifier: Apache-2.0
#include "cpu/attention.h"

#include <tilewright/attention.h>
#include <tilewright/plan.h>
#include <tilewright/threads.h>

#include <cmath>

#include "attention/attention_impl.h"
#include "attention/cuda_plan.h"
#include "attention/plan_impl.h"
#include "base/checks.h"
#include "base/numeric.h"
#include "base/rope.h"

namespace tilewright {
namespace {

constexpr int kMaxHeadDim = 576;

void require_spec(const AttentionSpec& spec) {
  require(spec.num_qo_heads >= 1, "num_qo_heads is {}: it must be at least 1", spec.num_qo_heads);
  require(spec.num_kv_heads >= 1 && spec.num_qo_heads % spec.num_kv_heads == 0,
          "num_kv_heads is {}: it must divide num_qo_heads, {}", spec.num_kv_heads,
          spec.num_qo_heads);
  const auto require_dim = [](std::string_view name, int dim) {
    require(dim >= 8 && dim <= kMaxHeadDim && dim % 8 == 0,
            "{} is {}: it must be a multiple of 8 in [8, {}]", name, dim, kMaxHeadDim);
  };
  require_dim("head_dim", spec.head_dim);
  require_dim("head_dim_vo", spec.value_dim());
  const auto require_float = [](std::string_view name, DType dtype) {
    require(is_floating_point(dtype), "{} is {}: it must be a floating-point dtype", name,
            dtype_name(dtype));
  };
  require_float("q_dtype", spec.q_dtype);
  require_float("kv_dtype", spec.kv_dtype);
  require_float("v_dtype", spec.value_dtype());
  require_float("out_dtype", spec.output_dtype());
  spec.variant.validate();
  if (spec.variant.rope.has_value()) {
    check_rope(*spec.variant.rope);
    rope_dim(*spec.variant.rope, spec.head_dim);
  }
}

// What must hold of q, out and lse beyond their own checks: rows for every query token.
void require_tokens(std::string_view name, const TensorView& tensor, std::int64_t tokens) {
  require(tensor.shape[0] >= tokens, "{} is {}: the plan's batch has {} query tokens", name, tensor,
          tokens);
}

void require_scale(const char* name, const Scale& scale, std::int64_t requests, int heads,
                   Device device) {
  const TensorView& t = scale.tensor;
  if (!t.defined()) return;
  require_dtype(name, t, {DType::f32});
  require_device(name, t, device);
  const auto broadcasts = [](std::int64_t extent, std::int64_t to) {
    return extent == 1 || extent == to;
  };
  require((t.rank == 1 && t.shape[0] == 1) ||
              (t.rank == 2 && broadcasts(t.shape[0], requests) && broadcasts(t.shape[1], heads)),
          "{} is {}: its shape must be [1] or broadcast to [{}, {}]", name, t, requests, heads);
}

void require_cache(int level, const KvCache& cache, const plan::LevelPages& pages,
                   const AttentionSpec& spec, Device device) {
  const auto check = [&](const char* which, const TensorView& t, DType dtype, int dim) {
    const auto name = [&] { return fmt::format("kv[{}].{}", level, which); };
    // Names are formatted only when a check fails: this is every layer's path.
    if (t.rank != 4 || t.shape[2] != spec.num_kv_heads || t.shape[3] != dim ||
        t.shape[1] != pages.page_size) {
      require(false, "{} is {}: it must be [pages, {}, {}, {}]", name(), t, pages.page_size,
              spec.num_kv_heads, dim);
    }
    if (t.dtype != dtype) require_dtype(name(), t, {dtype});
    if (t.device != device) require_device(name(), t, device);
    if (!t.last_dim_contiguous()) require_last_dim_contiguous(name(), t);
    if (t.data == nullptr) require_defined(name(), t);
    // Of a plan that the device made, only the device knows.
    if (pages.max_page >= t.shape[0]) {
      require(false, "levels[{}] has page {} for request {}: {} has {} pages", level,
              pages.max_page, pages.max_page_row, name(), t.shape[0]);
    }
  };
  check("k", cache.k, spec.kv_dtype, spec.head_dim);
  check("v", cache.v, spec.value_dtype(), spec.value_dim());
}

void bind_run_params(const AttentionImpl& attention, const RunArgs& args, std::int64_t requests,
                     std::int64_t q_tokens, Bindings& bindings) {
  attention.variant.binder.bind(
      args.params, Bind::run,
      {attention.spec.num_qo_heads, attention.spec.num_kv_heads, requests, q_tokens},
      attention.device, bindings);
  if (!args.logits_soft_cap.has_value()) return;
  const float cap = *args.logits_soft_cap;
  require(attention.soft_cap_param >= 0,
          "logits_soft_cap is {}: the variant has no parameter of this name", cap);
  require(cap > 0, "logits_soft_cap is {}: it must be positive", cap);
  bindings.params[static_cast<std::size_t>(attention.soft_cap_param)].scalar =
      static_cast<double>(cap);
}

// Checks a call's tensors. `tokens`: query tokens of the batch, as far as the host knows.
void require_call(const AttentionImpl& attention, const plan::View& plan, std::int64_t tokens,
                  int requests, const TensorView& q, const KvCache* levels, std::size_t num_levels,
                  const RunArgs& args) {
  const AttentionSpec& spec = attention.spec;
  require(num_levels == static_cast<std::size_t>(plan.num_levels),
          "kv has {} levels: the plan's batch has {}", num_levels, plan.num_levels);

  const auto require_heads = [&](std::string_view name, const TensorView& t, DType dtype, int dim) {
    require_shape(name, t, {-1, spec.num_qo_heads, dim});
    require_tokens(name, t, tokens);
    require_dtype(name, t, {dtype});
    require_device(name, t, attention.device);
    require_last_dim_contiguous(name, t);
    require_defined(name, t);
  };
  require_heads("q", q, spec.q_dtype, spec.head_dim);
  require_heads("out", args.out, spec.output_dtype(), spec.value_dim());
  require_writable("out", args.out);
  if (args.lse.defined()) {
    require_shape("lse", args.lse, {args.out.shape[0], spec.num_qo_heads});
    require_dtype("lse", args.lse, {DType::f32});
    require_device("lse", args.lse, attention.device);
    require_writable("lse", args.lse);
  }
  require(spec.variant.softmax || !args.lse.defined(),
          "lse is {}: a variant without softmax has no log-sum-exp", args.lse);
  require(spec.variant.softmax || !args.sinks.defined(),
          "sinks is {}: a variant without softmax has no denominator", args.sinks);
  if (args.sinks.defined()) {
    require_shape("sinks", args.sinks, {spec.num_qo_heads});
    require_dtype("sinks", args.sinks, {DType::f32});
    require_device("sinks", args.sinks, attention.device);
  }
  require_scale("q_scale", args.q_scale, requests, spec.num_kv_heads, attention.device);
  require_scale("k_scale", args.k_scale, requests, spec.num_kv_heads, attention.device);
  require_scale("v_scale", args.v_scale, requests, spec.num_kv_heads, attention.device);
  require_scale("out_scale", args.out_scale, requests, spec.num_kv_heads, attention.device);
  for (std::size_t level = 0; level < num_levels; ++level) {
    require_cache(static_cast<int>(level), levels[level], plan.levels[level], spec,
                  attention.device);
  }
}

// What the calls of all backends have in common.
template <typename Call>
void fill_call(const AttentionSpec& spec, const TensorView& q, const RunArgs& args, Call& call) {
  call.q = q;
  call.out = args.out;
  call.lse = args.lse;
  call.sm_scale = args.sm_scale.value_or(1.0F / std::sqrt(static_cast<float>(spec.head_dim)));
  call.q_scale = args.q_scale;
  call.k_scale = args.k_scale;
  call.v_scale = args.v_scale;
  call.out_scale = args.out_scale;
  call.sinks = args.sinks;
  call.zero_padding = args.padding == Padding::zero;
}

void run_on_cpu(const AttentionImpl& attention, PlanImpl& plan_impl, const PlanPart& part,
                const TensorView& q, const KvCache* levels, std::size_t num_levels,
                const RunArgs& args) {
  const cpu::AttentionPlan& plan = part.plan;
  const std::int64_t tokens = plan.schedule.header->q_tokens;
  require_call(attention, plan, tokens, plan_impl.num_requests, q, levels, num_levels, args);
  cpu::AttentionCall call;
  for (std::size_t level = 0; level < num_levels; ++level) call.kv[level] = levels[level];
  call.bindings = plan.bindings;
  bind_run_params(attention, args, plan_impl.num_requests, tokens, call.bindings);
  call.spec = &attention.spec;
  call.variant = &attention.variant;
  call.plan = &plan;
  fill_call(attention.spec, q, args, call);
  cpu::RunMemory memory = plan_impl.memory;
  memory.threads = std::min(memory.threads, num_threads());
  cpu::run_attention(call, memory);
}

void run_levels(const Attention& attention, PlanImpl& plan, const TensorView& q,
                const KvCache* levels, std::size_t num_levels, const RunArgs& args) {
  if (plan.cuda != nullptr) {
    plan.require_updated();
    plan.check_last_update(args.stream);
    CudaPlan& cuda = *plan.cuda;
    const DevicePlan::Part& part = cuda.part(attention);
    cuda.run(part, check_cuda_call(part, cuda.num_requests(), q, levels, num_levels, args));
    return;
  }
  run_on_cpu(attention.impl(), plan, plan.part_for_run(attention), q, levels, num_levels, args);
}

}  // namespace

CudaCall check_cuda_call(const DevicePlan::Part& part, int num_requests, const TensorView& q,
                         const KvCache* levels, std::size_t num_levels, const RunArgs& args) {
  const AttentionImpl& attention = part.attention.impl();
  require_call(attention, part.view, 0, num_requests, q, levels, num_levels, args);
  CudaCall call;
  call.plan_bindings = &part.bindings;
  // They are kilobytes: not copied by every layer of a variant that needs none.
  if (attention.variant.binder.binds_at(Bind::run) || !args.params.empty() ||
      args.logits_soft_cap.has_value()) {
    bind_run_params(attention, args, num_requests, 0, call.run_bindings.emplace(part.bindings));
  }
  fill_call(attention.spec, q, args, call);
  call.kv = levels;
  call.stream = args.stream;
  return call;
}

bool operator==(const AttentionSpec& a, const AttentionSpec& b) {
  return a.num_qo_heads == b.num_qo_heads && a.num_kv_heads == b.num_kv_heads &&
         a.head_dim == b.head_dim && a.value_dim() == b.value_dim() && a.q_dtype == b.q_dtype &&
         a.kv_dtype == b.kv_dtype && a.value_dtype() == b.value_dtype() &&
         a.output_dtype() == b.output_dtype() && a.variant == b.variant;
}

AttentionImpl::AttentionImpl(const AttentionSpec& attention_spec, Device where)
    : spec(attention_spec),
      device(where),
      variant(spec.variant, spec.head_dim),
      soft_cap_param(variant.binder.index_of("logits_soft_cap")) {
  if (device.type == DeviceType::cuda) cuda = std::make_unique<const CudaKernels>(spec, device);
}
AttentionImpl::~AttentionImpl() = default;

Support supports(Device device, const AttentionSpec& spec) {
  require_spec(spec);
  if (device.type == DeviceType::cpu) return {true, ""};
  // Where there is no GPU the answer is that of the oldest one.
  CudaTarget target;
  if (device.index < cuda::device_count()) {
    const cuda::Device properties = cuda::describe_device(device.index);
    target = {properties.major, properties.minor};
  }
  return cuda_supports(spec, target);
}

Attention::Attention(const AttentionSpec& spec, Device device) {
  const Support support = supports(device, spec);
  if (!support) {
    raise(ErrorCode::not_supported, "{}: {}", device_name(device), support.reason);
  }
  impl_ = std::make_shared<const AttentionImpl>(spec, device);
}

const AttentionSpec& Attention::spec() const {
  return impl_->spec;
}

Device Attention::device() const {
  return impl_->device;
}

void Attention::run(Plan& plan, const TensorView& q, const KvCache& kv, const RunArgs& args) const {
  run_levels(*this, plan.impl(), q, &kv, 1, args);
}

void Attention::run(Plan& plan, const TensorView& q, const std::vector<KvCache>& levels,
                    const RunArgs& args) const {
  run_levels(*this, plan.impl(), q, levels.data(), levels.size(), args);
}

}  // namespace tilewright
