// SPDX-License-Identifier: Apache-2.0
#include "attention/device_plan.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <memory>
#include <type_traits>

#include "attention/attention_impl.h"
#include "attention/block_reader.h"
#include "attention/memory_size.h"
#include "attention/update_kernel.h"
#include "base/checks.h"
#include "plan/update_memory.h"

namespace tilewright {
namespace {

constexpr std::size_t kAlignment = 256;
constexpr std::int64_t kMaxThreads = 512;
constexpr std::int64_t kWarpSize = 32;
using OnePart = plan::UpdateParams<1>;
static_assert(std::is_trivially_copyable_v<OnePart>);
constexpr std::size_t kHeadBytes = offsetof(OnePart, parts);

std::size_t round_up(std::size_t bytes) {
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

// One of each head of a worker's items.
std::int64_t slot_pairs_of(const plan::Config& config) {
  return std::int64_t{config.workers} * config.max_heads;
}

}  // namespace

// Hands out pieces of a workspace that may not be there yet.
class DevicePlan::Pieces {
 public:
  explicit Pieces(std::byte* base) : base_(base) {}

  std::byte* take(std::size_t bytes) {
    std::byte* const piece = base_ != nullptr ? base_ + offset_ : nullptr;
    offset_ += round_up(bytes);
    return piece;
  }
  template <typename T>
  void take_array(T*& array, std::int64_t count) {
    array = reinterpret_cast<T*>(take(static_cast<std::size_t>(count) * sizeof(T)));
  }
  std::size_t bytes() const { return offset_; }

 private:
  std::byte* base_;
  std::size_t offset_ = 0;
};

plan::ParamSlot param_slot(const BoundParam& param) {
  plan::ParamSlot slot{};
  slot.data = param.data;
  slot.real = static_cast<float>(param.scalar);
  slot.integer = static_cast<std::int32_t>(param.scalar);
  slot.dtype = static_cast<std::int32_t>(param.dtype);
  slot.rank = param.rank;
  for (std::size_t dim = 0; dim < 3; ++dim) {
    slot.shape[dim] = static_cast<std::int32_t>(param.shape[dim]);
    slot.strides[dim] = param.strides[dim];
  }
  return slot;
}

DevicePlan::DevicePlan(const std::vector<Attention>& attentions, const Limits& limits,
                       const std::vector<Configs>& configs, int num_sms)
    : limits_(limits), num_sms_(num_sms) {
  for (std::size_t i = 0; i < attentions.size(); ++i) {
    const Attention& attention = attentions[i];
    Part part(attention);
    const int heads_differ = attention.impl().variant.mask_depends_on_head ? 1 : 0;
    part.memory.schedule.config = configs[i].requests;
    part.memory.schedule.config.heads_differ = heads_differ;
    part.row_config = configs[i].rows;
    part.most_slot_rows =
        std::max(2 * slot_pairs_of(configs[i].requests) * configs[i].request_slot_rows,
                 2 * slot_pairs_of(configs[i].rows) * configs[i].row_slot_rows);
    part.row_config.heads_differ = heads_differ;
    part.memory.batch_invariant = limits.determinism == Determinism::batch_invariant;
    part.mask = add_mask(masks_, attention.spec().variant);
    for (const Param& param : masks_[static_cast<std::size_t>(part.mask)].params()) {
      part.mask_params.push_back(
          static_cast<std::size_t>(attention.impl().variant.binder.index_of(param.name())));
    }
    parts_.push_back(part);
  }
  params_.resize(kHeadBytes + parts_.size() * sizeof(plan::PartInput));
}

bool DevicePlan::heads_may_differ(const Part& part) const {
  const AttentionSpec& spec = part.attention.spec();
  return part.memory.schedule.config.heads_differ != 0 ||
         (limits_.block_structures && spec.variant.mask.defined() && spec.num_kv_heads > 1);
}

int DevicePlan::slot_pairs() const {
  std::int64_t most = 0;
  for (const Part& part : parts_) {
    for (const plan::Config* config : {&part.memory.schedule.config, &part.row_config}) {
      most = std::max(most, slot_pairs_of(*config));
    }
  }
  return static_cast<int>(most);
}

std::size_t DevicePlan::lay_out(std::byte* base) {
  Pieces pieces(base);
  pieces.take_array(status_.words, 2 * (limits_.requests + 1));
  pieces.take_array(status_.blocks, 1);
  pieces.take_array(run_memory_.a_taken, 1);
  pieces.take_array(run_memory_.arrivals, slot_pairs());
  // The status is asked for where the only update was captured, too, and has not run.
  for (Part& part : parts_) pieces.take_array(part.memory.schedule.header, 1);
  state_bytes_ = pieces.bytes();
  const std::int64_t rows = limits_.requests * limits_.levels;
  std::memset(params_.data(), 0, params_.size());
  std::size_t slots = 0;
  std::size_t levels = 0;
  for (std::size_t i = 0; i < parts_.size(); ++i) {
    plan::View& view = parts_[i].memory;
    plan::PartInput& input = *std::construct_at(&input_of(i));
    const plan::Config& config = view.schedule.config;
    const int workers = std::max(config.workers, parts_[i].row_config.workers);
    pieces.take_array(view.requests, limits_.requests);
    pieces.take_array(view.schedule.rows, rows);
    pieces.take_array(view.segments, rows);
    pieces.take_array(view.schedule.cuts, workers + 1);
    pieces.take_array(view.schedule.splits, workers);
    pieces.take_array(view.schedule.starts, workers);
    pieces.take_array(view.token_levels, limits_.q_tokens);
    pieces.take_array(view.token_keys, limits_.q_tokens);
    pieces.take_array(view.token_requests, limits_.q_tokens);
    shared_bytes_ = std::max(shared_bytes_, place_arrays(parts_[i], workers, pieces, input.arrays));
    input.mask = parts_[i].mask;
    input.has_long_rows = limits_.q_len * config.group_size > config.tile_rows ||
                          config.heads_differ != 0 || limits_.block_structures;
    const AttentionSpec& spec = parts_[i].attention.spec();
    // A row's partial result: the sums, the maximum and the sum of weights.
    const std::size_t row_bytes = (static_cast<std::size_t>(spec.value_dim()) + 2) * sizeof(float);
    slots = std::max(slots, row_bytes * static_cast<std::size_t>(parts_[i].most_slot_rows));
    const std::size_t level_row_bytes =
        static_cast<std::size_t>(tw::level_row_floats(static_cast<int>(spec.value_dim()))) *
        sizeof(float);
    levels =
        std::max(levels, round_up(level_row_bytes * static_cast<std::size_t>(limits_.q_tokens) *
                                  static_cast<std::size_t>(spec.num_qo_heads)));
  }
  run_memory_.slots = pieces.take(slots);
  if (limits_.block_structures) {
    run_memory_.most_blocks = 0;
    for (const Part& part : parts_) {
      run_memory_.most_blocks = std::max(
          run_memory_.most_blocks, static_cast<std::int32_t>(plan::ceil_div(
                                       limits_.kv_len, part.memory.schedule.config.block_tokens)));
    }
    pieces.take_array(run_memory_.needed_blocks,
                      std::int64_t{slot_pairs()} * run_memory_.most_blocks);
  }
  run_memory_.levels =
      pieces.take(limits_.levels > 1 ? levels * static_cast<std::size_t>(limits_.levels) : 0);
  return pieces.bytes();
}

std::size_t DevicePlan::place_arrays(const Part& part, int workers, Pieces& pieces,
                                     plan::UpdateArrays& arrays) const {
  const plan::View& view = part.memory;
  const plan::Config& config = view.schedule.config;
  const std::int64_t rows = limits_.requests * limits_.levels;
  // Rows of one level share no query tokens; each has a last tile that may not be whole.
  const std::int64_t tiles =
      (limits_.q_tokens * config.group_size / config.tile_rows * limits_.levels + rows) *
      (heads_may_differ(part) ? config.num_kv_heads : 1);
  std::int64_t used = sizeof(plan::UpdateMemory);
  // Where there is no room: in `global`, or memory of its own.
  const auto place = [&]<typename T>(plan::Placed<T>& array, std::int64_t count,
                                     T* global = nullptr) {
    constexpr std::int64_t kUnit = 16;
    const std::int64_t bytes =
        (count * static_cast<std::int64_t>(sizeof(T)) + kUnit - 1) / kUnit * kUnit;
    if (used + bytes > plan::kMostUpdateShared) {
      if (global == nullptr) pieces.take_array(global, count);
      array.place = reinterpret_cast<std::uintptr_t>(global);
      return;
    }
    array.is_shared = true;
    array.place = static_cast<std::uint64_t>(used);
    used += bytes;
  };
  place(arrays.tail_costs, workers);
  place(arrays.cost_before, rows);
  place(arrays.short_rows, rows);
  place(arrays.requests, limits_.requests);
  place(arrays.short_spans, rows);
  place(arrays.first_tile, rows);
  if (limits_.levels > 1) place(arrays.fold, 4 * rows);
  place(arrays.token_keys, limits_.q_tokens, view.token_keys);
  place(arrays.token_levels, limits_.q_tokens, view.token_levels);
  place(arrays.level_rows, rows);
  place(arrays.tile_costs, tiles);
  pieces.take_array(arrays.a_rows, rows);
  return static_cast<std::size_t>(used);
}

plan::StatusCopy DevicePlan::status_copy(int requests) const {
  plan::StatusCopy copy;
  copy.words = status_.words;
  // That of any attention: an update writes all.
  copy.turn = &parts_[0].memory.schedule.header->status_turn;
  copy.stride = static_cast<std::int32_t>(limits_.requests + 1);
  copy.count = requests;
  return copy;
}

plan::PartInput& DevicePlan::input_of(std::size_t part) {
  return reinterpret_cast<plan::PartInput*>(params_.data() + kHeadBytes)[part];
}

void DevicePlan::read_part(const PlanInput& input, const DeviceBatch& batch, Part& part,
                           plan::PartInput& written) const {
  written.view = part.memory;
  batch.read(input, written);
  for (int level = 0; level < written.view.num_levels; ++level) {
    written.levels[level].num_pages = static_cast<std::int32_t>(
        std::min<std::int64_t>(input.levels[static_cast<std::size_t>(level)].table.num_pages,
                               std::numeric_limits<std::int32_t>::max()));
  }
  // Rows that are simply the requests need no memory of query tokens.
  if (input.levels.size() == 1 && !input.levels[0].qo_indptr.defined()) {
    written.view.token_levels = nullptr;
    written.view.token_keys = nullptr;
    written.view.token_requests = nullptr;
  } else {
    written.view.schedule.config = part.row_config;
  }
  const plan::Config& config = written.view.schedule.config;
  written.cost_for_all = plan::least_share(config) * config.workers;
  written.worker_reciprocal =
      std::numeric_limits<std::uint64_t>::max() / static_cast<std::uint64_t>(config.workers) + 1;
  const AttentionImpl& attention = part.attention.impl();
  written.view.blocks =
      block_lists(input.blocks, attention.spec, attention.device, batch.most_requests());
  if (written.view.blocks.heads > 1) written.view.schedule.config.heads_differ = 1;
  // Numbers that only the device knows are checked there: reads outside of a tensor give 0.
  attention.variant.binder.bind(input.params, Bind::plan,
                                {attention.spec.num_qo_heads, attention.spec.num_kv_heads,
                                 std::max<std::int64_t>(batch.num_requests(), 0), 0},
                                attention.device, part.bindings);
  for (std::size_t i = 0; i < part.mask_params.size(); ++i) {
    written.params[i] = param_slot(part.bindings.params[part.mask_params[i]]);
  }
  part.view = written.view;
}

UpdateLaunch DevicePlan::shape_of_launch() const {
  const std::int64_t rows = limits_.requests * limits_.levels;
  const auto parts = static_cast<std::int64_t>(parts_.size());
  UpdateLaunch launch;
  launch.shared_bytes = shared_bytes_;
  // A block is as large as its longest loop: fewer threads meet sooner at barriers.
  std::int64_t wanted = std::max<std::int64_t>(rows, 256);
  if (limits_.levels > 1) wanted = std::max(wanted, limits_.q_tokens);
  for (const Part& part : parts_) {
    const plan::Config& config = part.memory.schedule.config;
    if (limits_.q_len * config.group_size > config.tile_rows) wanted = kMaxThreads;
  }
  if (limits_.block_structures) wanted = kMaxThreads;  // rows are for warps
  const std::int64_t threads =
      std::min<std::int64_t>((wanted + kWarpSize - 1) / kWarpSize * kWarpSize, kMaxThreads);
  // Page ids are checked by a few warps a row. Always as many: StatusMemory counts them.
  constexpr std::int64_t kKeysAWarp = 1024;
  const std::int64_t warps =
      rows * parts * std::clamp<std::int64_t>(limits_.kv_len / kKeysAWarp, 1, 8);
  const std::int64_t most = num_sms_ * (1024 / threads) - parts;
  const std::int64_t checking = std::clamp<std::int64_t>(plan::ceil_div(warps * kWarpSize, threads),
                                                         1, std::max<std::int64_t>(most, 1));
  launch.blocks = static_cast<int>(parts + checking);
  launch.threads = static_cast<int>(threads);
  launch.params = params_.data();
  launch.params_bytes = params_.size();
  return launch;
}

void DevicePlan::update(const Batch& batch, const std::vector<PlanInput>& inputs,
                        const UpdateLauncher& launch, Stream stream) {
  const DeviceBatch reader(batch, limits_, parts_[0].attention.device());
  require(inputs.size() == parts_.size(), "inputs has {} entries: the plan has {} attentions",
          inputs.size(), parts_.size());
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    for (std::size_t j = 0; j < i; ++j) {
      require(!(inputs[i].attention == inputs[j].attention),
              "inputs[{}] has the attention of inputs[{}]: each once", i, j);
    }
    const auto found = std::find_if(parts_.begin(), parts_.end(), [&](const Part& part) {
      return part.attention == inputs[i].attention;
    });
    if (found == parts_.end()) {
      raise(ErrorCode::invalid_state, "inputs[{}] has an attention that the plan was not made for",
            i);
    }
    if (inputs[i].blocks.defined() && !limits_.block_structures) {
      raise(ErrorCode::limit_exceeded,
            "inputs[{}].blocks is given: on CUDA the plan's limits.block_structures must be true",
            i);
    }
    read_part(inputs[i], reader, *found,
              input_of(static_cast<std::size_t>(found - parts_.begin())));
  }
  auto& head = *reinterpret_cast<OnePart*>(params_.data());
  head.batch = reader.input();
  head.limits = {
      static_cast<std::int32_t>(limits_.requests), static_cast<std::int32_t>(limits_.q_tokens),
      static_cast<std::int32_t>(limits_.q_len), static_cast<std::int32_t>(limits_.kv_len),
      static_cast<std::int32_t>(limits_.requests * limits_.levels)};
  head.status = status_;
  launch(shape_of_launch(), stream);
}

}  // namespace tilewright
