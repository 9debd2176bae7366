// SPDX-License-Identifier: Apache-2.0
// From the C++ API's structs to the C API's, so that both can be called with the same data; handles
// that are given back; and the check of errors.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <tilewright/c_api.h>
#include <tilewright/tilewright.h>

#include <algorithm>
#include <array>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace tilewright::test {

template <typename T>
T sized() {
  T value{};
  value.size = sizeof(T);
  return value;
}

#define EXPECT_OK(call) EXPECT_EQ((call), TW_OK) << tw_last_error()
#define ASSERT_OK(call) ASSERT_EQ((call), TW_OK) << tw_last_error()

inline void expect_failed(tw_status got, tw_status expected,
                          const std::vector<std::string>& words) {
  EXPECT_EQ(got, expected);
  if (got == TW_OK) return;
  for (const std::string& word : words) EXPECT_THAT(tw_last_error(), testing::HasSubstr(word));
}

inline void expect_invalid(tw_status got, const std::vector<std::string>& words) {
  expect_failed(got, TW_INVALID_ARGUMENT, words);
}

// A handle of the C API that its owner gives back.
template <typename T, void (*Destroy)(T*)>
class Handle {
 public:
  Handle() = default;
  Handle(Handle&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  Handle& operator=(Handle&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }
  ~Handle() { Destroy(handle_); }

  T* get() const { return handle_; }
  T** target() { return &handle_; }

 private:
  T* handle_ = nullptr;
};

using VariantHandle = Handle<tw_variant, tw_variant_destroy>;
using RopeHandle = Handle<tw_rope, tw_rope_destroy>;
using AttentionHandle = Handle<tw_attention, tw_attention_destroy>;
using PlanHandle = Handle<tw_plan, tw_plan_destroy>;
using TreeMaskHandle = Handle<tw_tree_mask, tw_tree_mask_destroy>;
using MaskMapHandle = Handle<tw_mask_map, tw_mask_map_destroy>;
using BlockMemoryHandle = Handle<tw_block_memory, tw_block_memory_destroy>;

using SpecsHandle = Handle<tw_attention_specs, tw_attention_specs_destroy>;
using ReportsHandle = Handle<tw_kernel_reports, tw_kernel_reports_destroy>;
using KernelCacheHandle = Handle<tw_kernel_cache, tw_kernel_cache_destroy>;

inline tw_dtype to_c(DType dtype) {
  return static_cast<tw_dtype>(dtype) + TW_F32;
}

inline tw_tensor to_c(const TensorView& view) {
  tw_tensor tensor{};
  if (!view.defined()) return tensor;
  tensor.data = view.data;
  tensor.rank = view.rank;
  tensor.dtype = to_c(view.dtype);
  tensor.device.type = view.device.type == DeviceType::cpu ? TW_CPU : TW_CUDA;
  tensor.device.index = view.device.index;
  std::copy(view.shape.begin(), view.shape.end(), tensor.shape);
  std::copy(view.strides.begin(), view.strides.end(), tensor.strides);
  return tensor;
}

inline bool same_tensor(const tw_tensor& a, const TensorView& view) {
  const tw_tensor b = to_c(view);
  return a.data == b.data && a.rank == b.rank &&
         (a.rank == 0 ||
          (a.dtype == b.dtype && a.device.type == b.device.type &&
           a.device.index == b.device.index && std::equal(a.shape, a.shape + a.rank, b.shape) &&
           std::equal(a.strides, a.strides + a.rank, b.strides)));
}

inline tw_limits to_c(const Limits& limits) {
  auto c = sized<tw_limits>();
  c.requests = limits.requests;
  c.q_tokens = limits.q_tokens;
  c.q_len = limits.q_len;
  c.kv_len = limits.kv_len;
  c.levels = limits.levels;
  c.determinism =
      limits.determinism == Determinism::repeatable ? TW_REPEATABLE : TW_BATCH_INVARIANT;
  c.workers = limits.workers;
  c.block_structures = limits.block_structures ? 1 : 0;
  return c;
}

inline tw_batch to_c(const Batch& batch) {
  auto c = sized<tw_batch>();
  c.qo_indptr = to_c(batch.qo_indptr);
  c.kv_lens = to_c(batch.kv_lens);
  c.num_requests = to_c(batch.num_requests);
  c.q_pos = to_c(batch.q_pos);
  c.q_pos_offset = to_c(batch.q_pos_offset);
  c.interleave_size = batch.interleave.size;
  c.interleave_world = batch.interleave.world;
  c.interleave_rank = batch.interleave.rank;
  return c;
}

inline tw_kv_cache to_c(const KvCache& cache) {
  auto c = sized<tw_kv_cache>();
  c.k = to_c(cache.k);
  c.v = to_c(cache.v);
  return c;
}

inline tw_page_table to_c(const PageTable& table) {
  auto c = sized<tw_page_table>();
  c.form = static_cast<std::int32_t>(table.form) + TW_TABLE_PADDED;
  c.page_size = table.page_size;
  c.indices = to_c(table.indices);
  c.indptr = to_c(table.indptr);
  c.row_ids = to_c(table.row_ids);
  c.last_page_len = to_c(table.last_page_len);
  return c;
}

// Names stay those of `params`.
inline std::vector<tw_param> to_c(const std::vector<ParamValue>& params) {
  std::vector<tw_param> list;
  list.reserve(params.size());
  for (const ParamValue& param : params) {
    list.push_back({param.name.c_str(), param.value, to_c(param.tensor)});
  }
  return list;
}

inline std::vector<tw_kv_cache> to_c(const std::vector<KvCache>& caches) {
  std::vector<tw_kv_cache> list;
  list.reserve(caches.size());
  for (const KvCache& cache : caches) list.push_back(to_c(cache));
  return list;
}

// One entry of an update and what it points to.
class CInput {
 public:
  CInput(PlanInput input, const tw_attention* attention)
      : cpp_(std::move(input)), params_(to_c(cpp_.params)), input_(sized<tw_plan_input>()) {
    for (const KvLevel& level : cpp_.levels) tables_.push_back(to_c(level.table));
    for (std::size_t i = 0; i < tables_.size(); ++i) {
      auto& c = levels_.emplace_back(sized<tw_kv_level>());
      c.table = &tables_[i];
      c.kv_lens = to_c(cpp_.levels[i].kv_lens);
      c.qo_indptr = to_c(cpp_.levels[i].qo_indptr);
      c.q_rows = to_c(cpp_.levels[i].q_rows);
      c.kv_pos = to_c(cpp_.levels[i].kv_pos);
    }
    input_.attention = attention;
    input_.levels = levels_.data();
    input_.num_levels = levels_.size();
    input_.params = params_.data();
    input_.num_params = params_.size();
  }
  CInput(const CInput&) = delete;
  CInput& operator=(const CInput&) = delete;

  tw_plan_input& get() { return input_; }
  tw_kv_level& level(std::size_t i) { return levels_[i]; }
  tw_page_table& table(std::size_t i) { return tables_[i]; }
  tw_param& param(std::size_t i) { return params_[i]; }

 private:
  PlanInput cpp_;  // has the parameters' names
  std::vector<tw_page_table> tables_;
  std::vector<tw_kv_level> levels_;
  std::vector<tw_param> params_;
  tw_plan_input input_;
};

// Arguments of a run and what they point to.
class CRunArgs {
 public:
  explicit CRunArgs(const RunArgs& args)
      : cpp_(args), params_(to_c(cpp_.params)), args_(sized<tw_run_args>()) {
    args_.out = to_c(args.out);
    args_.lse = to_c(args.lse);
    args_.sinks = to_c(args.sinks);
    if (args.sm_scale) args_.sm_scale = &(sm_scale_ = *args.sm_scale);
    if (args.logits_soft_cap) args_.logits_soft_cap = &(soft_cap_ = *args.logits_soft_cap);
    const std::array<const Scale*, 4> scales = {&args.q_scale, &args.k_scale, &args.v_scale,
                                                &args.out_scale};
    const std::array<const tw_real**, 4> targets = {&args_.q_scale, &args_.k_scale, &args_.v_scale,
                                                    &args_.out_scale};
    for (std::size_t i = 0; i < scales.size(); ++i) {
      if (scales[i]->value == 1.0F && !scales[i]->tensor.defined()) continue;
      scales_[i] = {scales[i]->value, to_c(scales[i]->tensor)};
      *targets[i] = &scales_[i];
    }
    args_.params = params_.data();
    args_.num_params = params_.size();
    args_.padding = args.padding == Padding::zero ? TW_PADDING_ZERO : TW_PADDING_KEEP;
  }
  CRunArgs(const CRunArgs&) = delete;
  CRunArgs& operator=(const CRunArgs&) = delete;

  tw_run_args& get() { return args_; }
  tw_real& scale(std::size_t i) { return scales_[i]; }

 private:
  RunArgs cpp_;  // has the parameters' names
  float sm_scale_ = 0;
  float soft_cap_ = 0;
  std::array<tw_real, 4> scales_{};
  std::vector<tw_param> params_;
  tw_run_args args_;
};

inline VariantHandle make_variant_handle(const Variant& variant) {
  VariantHandle handle;
  EXPECT_OK(tw_variant_parse(variant.serialize().c_str(), handle.target()));
  return handle;
}

inline tw_attention_spec to_c(const AttentionSpec& spec, const tw_variant* variant) {
  auto c = sized<tw_attention_spec>();
  c.num_qo_heads = spec.num_qo_heads;
  c.num_kv_heads = spec.num_kv_heads;
  c.head_dim = spec.head_dim;
  c.head_dim_vo = spec.head_dim_vo;
  c.q_dtype = to_c(spec.q_dtype);
  c.kv_dtype = to_c(spec.kv_dtype);
  if (spec.v_dtype) c.v_dtype = to_c(*spec.v_dtype);
  if (spec.out_dtype) c.out_dtype = to_c(*spec.out_dtype);
  c.variant = variant;
  return c;
}

inline AttentionHandle make_attention(const AttentionSpec& spec) {
  const VariantHandle variant = make_variant_handle(spec.variant);
  const tw_attention_spec c = to_c(spec, variant.get());
  AttentionHandle handle;
  EXPECT_OK(tw_attention_create(&c, tw_device{}, handle.target()));
  return handle;
}

inline PlanHandle make_plan(const tw_attention* attention, const Limits& limits) {
  const tw_limits c = to_c(limits);
  PlanHandle handle;
  EXPECT_OK(tw_plan_create(&attention, 1, &c, nullptr, handle.target()));
  return handle;
}

}  // namespace tilewright::test
