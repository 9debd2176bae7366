// SPDX-License-Identifier: Apache-2.0
#include <tilewright/threads.h>

#include <algorithm>
#include <cstdint>
#include <mutex>
#include <new>

#include "attention/attention_impl.h"
#include "attention/batch_reader.h"
#include "attention/block_reader.h"
#include "attention/level_folding.h"
#include "attention/plan_impl.h"
#include "attention/schedule_stats.h"
#include "base/checks.h"
#include "base/parallel.h"
#include "cpu/tile_ranges.h"

namespace tilewright {
namespace {

constexpr std::size_t kWorkspaceAlignment = 256;
// Enough for a large server's cores; more only costs slots.
constexpr int kDefaultWorkers = 64;

void require_attentions(const std::vector<Attention>& attentions) {
  require(!attentions.empty(), "attentions is empty: a plan needs at least one");
  for (std::size_t i = 0; i < attentions.size(); ++i) {
    require(attentions[i].device() == attentions[0].device(),
            "attentions[{}] is on {}: all must be on the device of attentions[0], {}", i,
            attentions[i].device(), attentions[0].device());
    for (std::size_t j = 0; j < i; ++j) {
      require(!(attentions[i] == attentions[j]), "attentions[{}] is attentions[{}]: each once", i,
              j);
    }
  }
}

void require_workspace(const TensorView& workspace, Device device) {
  require_rank("workspace", workspace, {1});
  require_dtype("workspace", workspace, {DType::u8});
  require_device("workspace", workspace, device);
  require_last_dim_contiguous("workspace", workspace);
}

}  // namespace

void require_limits(const Limits& limits) {
  static constexpr std::int64_t kMost = std::int64_t{1} << 30;
  const auto in_range = [](std::string_view name, std::int64_t value, std::int64_t least) {
    require(value >= least && value <= kMost, "limits.{} is {}: it must be in [{}, {}]", name,
            value, least, kMost);
  };
  in_range("requests", limits.requests, 1);
  in_range("q_tokens", limits.q_tokens, 1);
  in_range("q_len", limits.q_len, 1);
  in_range("kv_len", limits.kv_len, 0);
  require(limits.levels >= 1 && limits.levels <= cpu::kMaxLevels,
          "limits.levels is {}: it must be in [1, {}]", limits.levels, cpu::kMaxLevels);
  require(limits.workers >= 0 && limits.workers <= 4096,
          "limits.workers is {}: it must be in [0, 4096]", limits.workers);
}

void PlanImpl::AlignedDelete::operator()(std::byte* pointer) const {
  ::operator delete[](pointer, std::align_val_t{kWorkspaceAlignment});
}

PlanImpl::PlanImpl(std::vector<Attention> list, const Limits& most, const TensorView& workspace)
    : limits(most), attentions(std::move(list)), debug(debug_of_environment()) {
  require_attentions(attentions);
  require_limits(limits);
  if (workspace.defined()) require_workspace(workspace, attentions[0].device());
  if (attentions[0].device().type == DeviceType::cuda) {
    cuda = std::make_unique<CudaPlan>(attentions, limits, workspace);
    return;
  }
  for (const Attention& attention : attentions) parts.emplace_back(attention);
  memory.threads = num_threads();
  const std::size_t bytes = lay_out(nullptr);
  if (!workspace.defined()) {
    try {
      owned_.reset(
          static_cast<std::byte*>(::operator new[](bytes, std::align_val_t{kWorkspaceAlignment})));
    } catch (const std::bad_alloc&) {
      raise(ErrorCode::out_of_memory, "a plan of these limits needs a workspace of {} bytes",
            bytes);
    }
    lay_out(owned_.get());
    return;
  }
  require(workspace.shape[0] >= static_cast<std::int64_t>(bytes),
          "workspace has {} bytes: these limits need {}", workspace.shape[0], bytes);
  require(reinterpret_cast<std::uintptr_t>(workspace.data) % kWorkspaceAlignment == 0,
          "workspace is at {}: it must be aligned to {} bytes", fmt::ptr(workspace.data),
          kWorkspaceAlignment);
  lay_out(static_cast<std::byte*>(workspace.data));
}

std::size_t PlanImpl::workspace_bytes(const std::vector<Attention>& list, const Limits& most,
                                      int threads) {
  require_attentions(list);
  require_limits(most);
  if (list[0].device().type == DeviceType::cuda) return CudaPlan::workspace_bytes(list, most);
  PlanImpl counted(list, most, threads);
  return counted.lay_out(nullptr);
}

PlanImpl::PlanImpl(const std::vector<Attention>& list, const Limits& most, int threads)
    : limits(most), attentions(list) {
  for (const Attention& attention : attentions) parts.emplace_back(attention);
  memory.threads = threads;
}

std::size_t PlanImpl::lay_out(std::byte* base) {
  std::size_t offset = 0;
  const auto take = [&](std::size_t bytes) {
    std::byte* piece = base != nullptr ? base + offset : nullptr;
    offset += (bytes + kWorkspaceAlignment - 1) / kWorkspaceAlignment * kWorkspaceAlignment;
    return piece;
  };
  const auto take_array = [&]<typename T>(T*& array, std::int64_t count) {
    array = reinterpret_cast<T*>(take(static_cast<std::size_t>(count) * sizeof(T)));
    if (array != nullptr) std::uninitialized_default_construct_n(array, count);
  };
  const int workers = limits.workers > 0 ? limits.workers : kDefaultWorkers;
  std::size_t slots = 0;
  std::size_t levels = 0;
  std::size_t scratch = 0;
  for (PlanPart& part : parts) {
    const AttentionImpl& attention = part.attention.impl();
    const AttentionSpec& spec = attention.spec;
    const std::int64_t kv_bytes =
        limits.kv_len * (spec.head_dim * dtype_bytes(spec.kv_dtype) +
                         spec.value_dim() * dtype_bytes(spec.value_dtype()));
    plan::Schedule& schedule = part.plan.schedule;
    cpu::configure(spec, attention.variant, kv_bytes, workers,
                   limits.determinism == Determinism::batch_invariant, part.plan);
    take_array(schedule.header, 1);
    take_array(part.plan.requests, limits.requests);
    take_array(schedule.rows, limits.requests * limits.levels);
    take_array(part.plan.segments, limits.requests * limits.levels);
    take_array(part.token_levels, limits.q_tokens);
    take_array(schedule.cuts, workers + 1);
    take_array(schedule.splits, workers);
    slots = std::max(slots, 2 * workers * cpu::slot_bytes(schedule.config, spec.value_dim()));
    levels = std::max(levels, cpu::level_bytes(spec, limits.q_tokens, limits.levels));
    scratch = std::max(scratch, cpu::scratch_bytes(spec, attention.variant));
  }
  take_array(token_keys_, limits.q_tokens);
  memory.slots = take(slots);
  memory.levels = take(levels);
  memory.scratch_bytes = scratch;
  memory.scratch = take(scratch * memory.threads);
  return offset;
}

PlanPart* PlanImpl::find(const Attention& attention) {
  const auto found = std::find_if(parts.begin(), parts.end(), [&](const PlanPart& part) {
    return part.attention == attention;
  });
  return found == parts.end() ? nullptr : &*found;
}

// Fills in tiles and costs of the rows, and counts them.
void PlanPart::measure_rows() {
  // A mask's ranges cost some hundred nanoseconds a tile, those of a band ten: rows of many tiles
  // are measured by many threads.
  const AttentionImpl& impl = attention.impl();
  const plan::Config& config = plan.schedule.config;
  const std::int32_t tiles_a_time = impl.variant.mask.is_band() ? 1024 : 64;
  // Tiles are measured for one head where heads do not differ.
  const int times = config.heads_differ != 0 ? 1 : config.num_kv_heads;
  const auto count = [&](const plan::Row& row, std::int32_t head, std::int32_t tile,
                         PlanStats& counted) {
    return add_tile(counted, cpu::count_tile(plan, impl.variant.mask, row, head, tile), impl.spec);
  };
  const auto measure = [&](plan::Row& row, std::int32_t begin, std::int32_t end,
                           PlanStats& counted) {
    plan::measure_tiles(config, row, begin, end,
                        [&](const plan::Row& r, std::int32_t head, std::int32_t tile) {
                          return count(r, head, tile, counted);
                        });
  };
  PlanStats counted;
  std::int64_t largest_block = 0;
  for (std::int32_t i = 0; i < plan.schedule.header->num_rows; ++i) {
    plan::Row& row = plan.schedule.rows[i];
    plan::start_row(config, row);
    largest_block = std::max(largest_block, plan::block_cost(config, row, 0));
    if (row.tiles == 1 && config.heads_differ == 0) {
      // Decoding requests, of which there are many: the same without loops.
      row.max_tile_blocks = count(row, 0, 0, counted);
      row.head_cost =
          plan::item_cost(config, row, 0, 0, [&](auto&&...) { return row.max_tile_blocks; });
    } else if (row.tiles <= tiles_a_time) {
      measure(row, 0, row.tiles, counted);
    } else {
      std::mutex joining;
      parallel_for(row.tiles, tiles_a_time, [&](std::int64_t begin, std::int64_t end) {
        plan::Row part = row;
        part.head_cost = 0;
        part.max_tile_blocks = 0;
        PlanStats of_part;
        measure(part, static_cast<std::int32_t>(begin), static_cast<std::int32_t>(end), of_part);
        const std::lock_guard lock(joining);
        row.head_cost += part.head_cost;
        row.max_tile_blocks = std::max(row.max_tile_blocks, part.max_tile_blocks);
        add(counted, of_part, 1);
      });
    }
  }
  if (config.largest_block > 0)
    plan.schedule.config.largest_block = std::max(largest_block, std::int64_t{1});
  add(stats, counted, times);
}

void PlanPart::make_schedule() {
  plan::Schedule& schedule = plan.schedule;
  stats = {};
  stats.folded_rows = fold_levels(plan);
  measure_rows();
  plan::make_schedule(
      schedule,
      [&](const plan::Row& row, std::int32_t head, std::int32_t tile) {
        // Of decode rows it is known already.
        if (row.tiles == 1 && schedule.config.heads_differ == 0) return row.max_tile_blocks;
        return cpu::tile_ranges(plan, attention.impl().variant.mask, row, head, tile).blocks;
      },
      [](plan::Row* begin, plan::Row* end, const plan::SortRows& order) {
        if (!std::is_sorted(begin, end, order)) std::sort(begin, end, order);
      });
  count_shares(schedule, stats);
}

void PlanImpl::update(const Batch& batch, const std::vector<PlanInput>& inputs, Stream stream) {
  check_last_update(stream);
  updated = false;
  if (cuda != nullptr) {
    cuda->update(batch, inputs, stream);
    updated = true;
    return;
  }
  const BatchReader reader(batch, limits, attentions[0].device());
  require(inputs.size() == parts.size(), "inputs has {} entries: the plan has {} attentions",
          inputs.size(), parts.size());
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    for (std::size_t j = 0; j < i; ++j) {
      require(!(inputs[i].attention == inputs[j].attention),
              "inputs[{}] has the attention of inputs[{}]: each once", i, j);
    }
    PlanPart* part = find(inputs[i].attention);
    if (part == nullptr) {
      raise(ErrorCode::invalid_state, "inputs[{}] has an attention that the plan was not made for",
            i);
    }
    const AttentionImpl& attention = part->attention.impl();
    cpu::AttentionPlan& plan = part->plan;
    reader.read(inputs[i], {part->token_levels, token_keys_}, plan);
    attention.variant.binder.bind(inputs[i].params, Bind::plan,
                                  {attention.spec.num_qo_heads, attention.spec.num_kv_heads,
                                   reader.num_requests(), plan.schedule.header->q_tokens},
                                  attention.device, plan.bindings);
    read_blocks(inputs[i].blocks, attention.spec, attention.device, plan);
    part->blocks_memory = inputs[i].blocks.memory;
    plan.schedule.config.heads_differ =
        attention.variant.mask_depends_on_head || plan.blocks.heads > 1 ? 1 : 0;
    part->make_schedule();
  }
  num_requests = reader.num_requests();
  updated = true;
}

PlanPart& PlanImpl::part_for_run(const Attention& attention) {
  PlanPart* part = find(attention);
  if (part == nullptr) {
    raise(ErrorCode::invalid_state,
          "plan was not made for this attention: give it to the plan's constructor");
  }
  require_updated();
  return *part;
}

void PlanImpl::require_updated() const {
  if (!updated) {
    raise(ErrorCode::invalid_state, "plan has no batch: call update() with one before run()");
  }
}

Plan::Plan(std::vector<Attention> attentions, const Limits& limits, const TensorView& workspace)
    : impl_(std::make_unique<PlanImpl>(std::move(attentions), limits, workspace)) {}
Plan::Plan(Plan&&) noexcept = default;
Plan& Plan::operator=(Plan&&) noexcept = default;
Plan::~Plan() = default;

std::size_t Plan::workspace_bytes(const std::vector<Attention>& attentions, const Limits& limits) {
  return PlanImpl::workspace_bytes(attentions, limits, num_threads());
}

// Nothing is compiled at run time on the CPU, and the workspace was laid out by the constructor.
Plan& Plan::prepare() {
  if (impl_->cuda != nullptr) impl_->cuda->prepare();
  return *this;
}

void Plan::update(const Batch& batch, const std::vector<PlanInput>& inputs, Stream stream) {
  impl_->update(batch, inputs, stream);
}

const Limits& Plan::limits() const {
  return impl_->limits;
}

const std::vector<Attention>& Plan::attentions() const {
  return impl_->attentions;
}

PlanStats Plan::stats(const Attention& attention) const {
  if (impl_->cuda == nullptr) return impl_->part_for_run(attention).stats;
  impl_->require_updated();
  return stats_of(impl_->cuda->records("stats", attention).plan(), attention.impl());
}

std::vector<PlanPiece> Plan::pieces(const Attention& attention) const {
  if (impl_->cuda == nullptr) {
    return pieces_of(impl_->part_for_run(attention).plan, attention.impl());
  }
  impl_->require_updated();
  return pieces_of(impl_->cuda->records("pieces", attention).plan(), attention.impl());
}

}  // namespace tilewright
