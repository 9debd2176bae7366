// SPDX-License-Identifier: Apache-2.0
#include "attention/cuda_params.h"

#include <algorithm>
#include <type_traits>

#include "attention/attention_impl.h"
#include "attention/device_config.h"
#include "attention/memory_size.h"
#include "base/checks.h"

namespace tilewright {
namespace {

static_assert(std::is_trivially_copyable_v<tw::AttentionParams>);

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

// Rows of 16-byte units. `level`: whose cache it is, where there are several.
void require_aligned(std::string_view name, const TensorView& t, int level = -1) {
  const std::int64_t bytes = dtype_bytes(t.dtype);
  bool aligned = reinterpret_cast<std::uintptr_t>(t.data) % 16 == 0;
  for (int dim = 0; dim + 1 < t.rank; ++dim) {
    const auto d = static_cast<std::size_t>(dim);
    aligned = aligned && (t.shape[d] <= 1 || t.strides[d] * bytes % 16 == 0);
  }
  if (aligned) return;
  raise(ErrorCode::invalid_argument,
        "{}{} is {} at {}: on CUDA its address and its strides must be multiples of 16 bytes: copy "
        "it to a tensor of its own, or pad the rows that it is a slice of",
        level >= 0 ? fmt::format("levels[{}]: ", level) : "", name, t, fmt::ptr(t.data));
}

void fill_params(const DevicePlan& plan, const DevicePlan::Part& part, const CudaCall& call,
                 tw::AttentionParams& params) {
  const AttentionSpec& spec = part.attention.spec();
  require_aligned("q", call.q);
  require_aligned("out", call.out);
  params.plan = part.view;
  for (int level = 0; level < part.view.num_levels; ++level) {
    const KvCache& cache = call.kv[level];
    const int named = part.view.num_levels > 1 ? level : -1;
    require_aligned("kv.k", cache.k, named);
    require_aligned("kv.v", cache.v, named);
    params.cache[level] = view_of(cache);
    if (params.cache[level].pages == 0) {
      // Page 0 is read where a page does not exist: here that is any memory, which counts for
      // nothing.
      params.cache[level] = {};
      params.cache[level].k = params.cache[level].v =
          reinterpret_cast<const char*>(plan.run_memory().slots);
    }
  }
  const std::int64_t q_bytes = dtype_bytes(call.q.dtype);
  params.q = static_cast<const char*>(call.q.data);
  params.q_token = call.q.strides[0] * q_bytes;
  params.q_head = call.q.strides[1] * q_bytes;
  const std::int64_t out_bytes = dtype_bytes(call.out.dtype);
  params.out = static_cast<char*>(call.out.data);
  params.out_token = call.out.strides[0] * out_bytes;
  params.out_head = call.out.strides[1] * out_bytes;
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
  const Bindings& bindings = call.bindings();
  for (std::size_t i = 0; i < part.attention.impl().variant.binder.params().size(); ++i) {
    params.params[i] = param_slot(bindings.params[i]);
  }
  const DevicePlan::RunMemory& memory = plan.run_memory();
  params.slots = reinterpret_cast<float*>(memory.slots);
  params.level_results = reinterpret_cast<float*>(memory.levels);
  params.split_arrivals = memory.arrivals;
  params.a_taken = memory.a_taken;
  params.status = reinterpret_cast<const std::int32_t*>(plan.status().words);
  params.status_stride = static_cast<std::int32_t>(plan.limits().requests + 1);
  params.most_blocks = memory.most_blocks;
  params.needed_blocks = memory.needed_blocks;
}

void fill_boxes(const AttentionSpec& spec, cuda::BoxMaps& boxes, tw::HopperParams& params) {
  const int levels = std::min(params.plan.num_levels, tw::HopperParams::kBoxLevels);
  for (int level = 0; level < levels; ++level) {
    const tw::CacheView& cache = params.cache[level];
    const plan::LevelPages& pages = params.plan.levels[level];
    const bool has_table = cache.pages > 0 && pages.indices != nullptr;
    const int tokens = box_tokens(has_table ? pages.page_size : 0);
    if (tokens == 0) continue;
    const auto of = [&](const char* data, std::int64_t dim, std::int64_t token, std::int64_t head,
                        std::int64_t page) {
      return cuda::BoxTensor{data,
                             {dim, pages.page_size, spec.num_kv_heads, cache.pages},
                             {2, token, head, page},
                             tokens};
    };
    const bool taken =
        boxes.write(of(cache.k, spec.head_dim, cache.k_token, cache.k_head, cache.k_page),
                    &params.k_boxes[level]) &&
        boxes.write(of(cache.v, spec.value_dim(), cache.v_token, cache.v_head, cache.v_page),
                    &params.v_boxes[level]);
    params.box_tokens[level] = taken ? tokens : 0;
  }
}

}  // namespace

plan::Config kernel_config(const Attention& attention, const CudaShape& shape, int num_sms,
                           std::int64_t l2_bytes, const Limits& limits) {
  plan::Config config =
      cuda_config(attention.spec(), {num_sms * shape.blocks_per_sm, l2_bytes}, limits);
  config.block_tokens = shape.block_tokens;
  if (shape.kind == KernelKind::hopper) {
    // One block of threads an SM; in nanoseconds or so. A block of keys takes few rows two thirds
    // of the time that its products with 128 rows take.
    config.cost = {1600, 900 * shape.block_tokens / 128, 4 * shape.block_tokens / 128, 48};
    // Products are of all rows of a tile, or of few.
    config.cost.full_from = tw::kDecodeRows + 1;
    config.least_share = 7200;
  }
  if (shape.kind != KernelKind::decode) {
    config.divides_workers = 1;
    return config;
  }
  if (!attention.impl().variant.mask_depends_on_head) {
    config.max_heads = shape.heads_together;
    while (config.max_heads > num_sms * shape.blocks_per_sm) config.max_heads /= 2;
    config.joint_rows = config.max_heads * tw::kDecodeRows;
    config.workers = std::max(1, config.workers / config.max_heads);
  }
  // Seen on a Hopper GPU: what a piece costs beside its keys' bytes is less where the next one's
  // are on their way meanwhile. Shares are worth a worker from 64 keys on.
  const auto rows = static_cast<std::int32_t>(limits.q_len) * config.group_size;
  const std::int32_t keys = config.cost.block + config.cost.block_row * rows;  // 64 of them
  config.cost.fixed = 300 * config.max_heads;
  config.evens_shares = config.cuts_items;
  config.cost.block = keys * config.block_tokens / 64;
  config.cost.block_row = 0;
  config.largest_block = config.cost.block * config.max_heads;
  config.least_share = keys * config.max_heads;
  return config;
}

DevicePlan::Configs kernel_configs(const Attention& attention, const CudaShape& requests,
                                   const CudaShape& rows, int num_sms, std::int64_t l2_bytes,
                                   const Limits& limits) {
  const auto config = [&](const CudaShape& shape) {
    return kernel_config(attention, shape, num_sms, l2_bytes, limits);
  };
  const auto slot_rows = [](const CudaShape& shape) {
    return tw::slot_rows(shape.kind == KernelKind::decode);
  };
  return {config(requests), config(rows), slot_rows(requests), slot_rows(rows)};
}

AttentionLaunch attention_launch(const DevicePlan& plan, const DevicePlan::Part& part,
                                 const CudaShape& shape, int num_sms, const CudaCall& call,
                                 cuda::BoxMaps& boxes) {
  AttentionLaunch launch{};
  fill_params(plan, part, call, launch.params);
  if (shape.kind == KernelKind::hopper) {
    fill_boxes(part.attention.spec(), boxes, launch.params);
    launch.params_bytes = sizeof(launch.params);
  }
  // A worker is as many blocks of threads as it has heads.
  const plan::Config& config = part.view.schedule.config;
  const int together =
      std::min(std::max(1, num_sms * shape.blocks_per_sm / config.max_heads), config.workers);
  launch.blocks = static_cast<unsigned>(together * config.max_heads);
  if (part.view.token_levels == nullptr) return launch;
  constexpr std::int64_t kRowsABlock = kJoinThreads / 32;
  const std::int64_t rows = plan.limits().q_tokens * part.attention.spec().num_qo_heads;
  launch.join_blocks =
      static_cast<unsigned>(std::min<std::int64_t>(plan::ceil_div(rows, kRowsABlock), num_sms * 8));
  return launch;
}

}  // namespace tilewright
