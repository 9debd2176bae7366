// SPDX-License-Identifier: Apache-2.0
#include "c_api/plan_scratch.h"

#include <algorithm>
#include <utility>

#include "c_api/handles.h"
#include "c_api/page_table.h"

namespace tilewright::c_api {
namespace {

BlockStructure read_blocks(const Path& path, const tw_block_structure* blocks) {
  if (blocks == nullptr) return {};
  const tw_block_structure given = read_struct(path, blocks);
  BlockStructure structure;
  structure.q_block = given.q_block;
  structure.kv_block = given.kv_block;
  structure.num_kv_heads = given.num_kv_heads == 0 ? 1 : given.num_kv_heads;
  structure.request_rows = read_tensor({path, "request_rows"}, given.request_rows);
  structure.indptr = read_tensor({path, "indptr"}, given.indptr);
  structure.indices = read_tensor({path, "indices"}, given.indices);
  structure.full = read_tensor({path, "full"}, given.full);
  require(structure.indptr.defined(), "{}.indptr is missing: a tensor is needed", path);
  if (given.memory != nullptr) structure.memory = given.memory->memory;
  return structure;
}

// Parameters of one binding time.
std::size_t count_params(const std::vector<Param>& params, Bind bind) {
  return static_cast<std::size_t>(std::count_if(
      params.begin(), params.end(), [&](const Param& param) { return param.bind() == bind; }));
}

std::size_t longest_name(const std::vector<Param>& params) {
  std::size_t longest = 0;
  for (const Param& param : params) longest = std::max(longest, param.name().size());
  return longest;
}

}  // namespace

void ParamPool::reserve(std::size_t count, std::size_t name_bytes) {
  spare_.reserve(count);
  while (spare_.size() < count) {
    spare_.emplace_back(std::string(), 0.0);
    spare_.back().name.reserve(name_bytes);
  }
}

void ParamPool::read(const Path& path, const tw_param* params, std::size_t count,
                     std::vector<ParamValue>& values) {
  check_count("num_params", count);
  if (count > 0) required(path, params);
  for (; values.size() > count; values.pop_back()) spare_.push_back(std::move(values.back()));
  while (values.size() < count) {
    if (spare_.empty()) reserve(1, 0);  // more than the variant has: an error that follows
    values.push_back(std::move(spare_.back()));
    spare_.pop_back();
  }
  for (std::size_t i = 0; i < count; ++i) read_param({path, i}, params[i], values[i]);
}

PlanScratch::PlanScratch(const Plan& plan) {
  const auto levels = static_cast<std::size_t>(plan.limits().levels);
  std::size_t bound_at_plan = 0;
  std::size_t most_at_plan = 0;
  std::size_t most_at_run = 0;
  std::size_t name_bytes = 0;
  for (const Attention& attention : plan.attentions()) {
    const std::vector<Param> params = attention.spec().variant.params();
    const std::size_t at_plan = count_params(params, Bind::plan);
    bound_at_plan += at_plan;
    most_at_plan = std::max(most_at_plan, at_plan);
    most_at_run = std::max(most_at_run, count_params(params, Bind::run));
    name_bytes = std::max(name_bytes, longest_name(params));
  }
  for (const Attention& attention : plan.attentions()) {
    PlanInput& input = inputs_.emplace_back(attention, std::vector<KvLevel>());
    input.levels.reserve(levels);
    input.params.reserve(most_at_plan);
  }
  caches_.reserve(levels);
  args_.params.reserve(most_at_run);
  // An input may be read before the one behind it gives its parameters back.
  plan_params_.reserve(bound_at_plan + most_at_plan * plan.attentions().size(), name_bytes);
  run_params_.reserve(most_at_run, name_bytes);
}

void PlanScratch::read_levels(const Path& path, const tw_plan_input& given,
                              std::vector<KvLevel>& levels) {
  const Path list_path(path, "levels");
  check_count({path, "num_levels"}, given.num_levels);
  const StructList<const tw_kv_level> list(list_path, given.levels, given.num_levels);
  levels.resize(list.size());
  for (std::size_t i = 0; i < list.size(); ++i) {
    const Path at(list_path, i);
    const tw_kv_level level = list.read(i);
    levels[i].table = read_page_table({at, "table"}, level.table);
    levels[i].kv_lens = read_tensor({at, "kv_lens"}, level.kv_lens);
    levels[i].qo_indptr = read_tensor({at, "qo_indptr"}, level.qo_indptr);
    levels[i].q_rows = read_tensor({at, "q_rows"}, level.q_rows);
    levels[i].kv_pos = read_tensor({at, "kv_pos"}, level.kv_pos);
  }
}

const std::vector<PlanInput>& PlanScratch::inputs(const tw_plan_input* inputs, std::size_t count) {
  require(count == inputs_.size(), "num_inputs is {}: it must be {}, the plan's attentions", count,
          inputs_.size());
  const Path list_path("inputs");
  const StructList<const tw_plan_input> list(list_path, inputs, count);
  for (std::size_t i = 0; i < count; ++i) {
    const Path path(list_path, i);
    const tw_plan_input given = list.read(i);
    PlanInput& input = inputs_[i];
    input.attention = required({path, "attention"}, given.attention).attention;
    read_levels(path, given, input.levels);
    plan_params_.read({path, "params"}, given.params, given.num_params, input.params);
    input.blocks = read_blocks({path, "blocks"}, given.blocks);
  }
  return inputs_;
}

const std::vector<KvCache>& PlanScratch::caches(const tw_kv_cache* kv, std::size_t count) {
  const Path path("kv");
  check_count("num_levels", count);
  const StructList<const tw_kv_cache> list(path, kv, count);
  caches_.resize(count);
  for (std::size_t i = 0; i < count; ++i) caches_[i] = read_kv_cache({path, i}, list.read(i));
  return caches_;
}

const RunArgs& PlanScratch::args(const tw_run_args* args) {
  const Path path("args");
  const tw_run_args given = read_struct(path, args);
  args_.out = read_tensor({path, "out"}, given.out);
  args_.lse = read_tensor({path, "lse"}, given.lse);
  args_.sinks = read_tensor({path, "sinks"}, given.sinks);
  const auto optional = [](const float* value) {
    return value == nullptr ? std::nullopt : std::optional<float>(*value);
  };
  args_.sm_scale = optional(given.sm_scale);
  args_.logits_soft_cap = optional(given.logits_soft_cap);
  args_.q_scale = read_scale({path, "q_scale"}, given.q_scale);
  args_.k_scale = read_scale({path, "k_scale"}, given.k_scale);
  args_.v_scale = read_scale({path, "v_scale"}, given.v_scale);
  args_.out_scale = read_scale({path, "out_scale"}, given.out_scale);
  run_params_.read({path, "params"}, given.params, given.num_params, args_.params);
  args_.padding = read_enum({path, "padding"}, given.padding, Padding::zero);
  args_.stream = read_stream(given.stream);
  return args_;
}

}  // namespace tilewright::c_api
