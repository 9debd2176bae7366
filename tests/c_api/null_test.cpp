// SPDX-License-Identifier: Apache-2.0
// NULL where something is needed: an error that names the argument, from every function.
#include <functional>

#include "c_api/c_support.h"
#include "support/simple_batch.h"

namespace tilewright::test {
namespace {

struct NullCase {
  const char* name;  // of the argument, as it stands in the message
  std::function<tw_status()> call;
};

class CNulls : public testing::Test {
 protected:
  CNulls() {
    spec.num_qo_heads = spec.num_kv_heads = 1;
    spec.head_dim = 8;
    plan_input.attention = a;
    plan_input.levels = &level;
    plan_input.num_levels = 1;
    level.table = &table;
    EXPECT_OK(tw_explain(v, 8, 8, nullptr, 0, nullptr, map.target()));
    EXPECT_OK(tw_tree_mask_from_parents(indptr.data(), 1, parents.data(), 1, tree.target()));
    auto rope_spec_all = sized<tw_rope_spec>();
    EXPECT_OK(tw_rope_create(&rope_spec_all, rope.target()));
    SimpleBatch b(dims, DType::f32, {{1, 5}}, 4, 1);
    const tw_batch good = to_c(b.batch());
    CInput input(b.inputs(cpp)[0], a);
    EXPECT_OK(tw_plan_update(p, &good, &input.get(), 1, nullptr));
  }

  void check(const std::vector<NullCase>& cases) {
    for (const NullCase& c : cases) {
      SCOPED_TRACE(c.name);
      expect_invalid(c.call(), {std::string(c.name) + " is NULL"});
    }
  }

  const Dims dims{1, 1, 8, 8};
  const Attention cpp{make_spec(dims, DType::f32, variants::causal())};
  const VariantHandle variant = make_variant_handle(variants::causal());
  const AttentionHandle attention = make_attention(cpp.spec());
  const PlanHandle plan = make_plan(attention.get(), Limits{1, 1, 1, 16});
  const tw_variant* const v = variant.get();
  const tw_attention* const a = attention.get();
  tw_plan* const p = plan.get();
  MaskMapHandle map;
  TreeMaskHandle tree;
  RopeHandle rope;
  const std::array<std::int32_t, 2> indptr = {0, 1};
  const std::array<std::int32_t, 1> parents = {-1};
  const std::array<std::uint8_t, 1> seen = {1};
  std::array<std::int32_t, 4> ints{};
  tw_tensor words = to_c(TensorView(ints.data(), DType::i32, {4}));
  std::array<float, 64> floats{};
  tw_tensor t = to_c(TensorView(floats.data(), DType::f32, {1, 1, 8}));
  tw_attention_spec spec = sized<tw_attention_spec>();
  tw_limits limits = to_c(Limits{1, 1, 1, 16});
  tw_batch batch = sized<tw_batch>();
  tw_plan_input plan_input = sized<tw_plan_input>();
  tw_kv_level level = sized<tw_kv_level>();
  tw_page_table table = sized<tw_page_table>();
  tw_kv_cache cache = sized<tw_kv_cache>();
  tw_run_args run_args = sized<tw_run_args>();
  tw_sampling_args sampling = sized<tw_sampling_args>();
  tw_block_structure blocks = sized<tw_block_structure>();
  tw_param_info param_info = sized<tw_param_info>();
  tw_mask_map_info map_info = sized<tw_mask_map_info>();
  tw_plan_stats stats = sized<tw_plan_stats>();
  tw_rope_spec rope_spec = sized<tw_rope_spec>();
  VariantHandle out_variant;
  BlockMemoryHandle out_memory;
  std::size_t count = 0;
  std::int32_t number = 0;
  const char* text = nullptr;
  DLManagedTensor* managed = nullptr;
  DLManagedTensorVersioned* versioned = nullptr;
};

TEST_F(CNulls, Base) {
  const std::array<std::int64_t, 1> shape = {1};
  check({{"features", [&] { return tw_cpu_features(nullptr); }},
         {"threads", [&] { return tw_num_threads(nullptr); }},
         {"bytes", [&] { return tw_dtype_bytes(TW_F32, nullptr); }},
         {"name", [&] { return tw_dtype_name(TW_F32, nullptr); }},
         {"tensor.data",
          [&] { return tw_tensor_init(nullptr, TW_F32, 1, shape.data(), nullptr, {}, &t); }},
         {"shape",
          [&] { return tw_tensor_init(floats.data(), TW_F32, 1, nullptr, nullptr, {}, &t); }},
         {"tensor",
          [&] {
            return tw_tensor_init(floats.data(), TW_F32, 1, shape.data(), nullptr, {}, nullptr);
          }},
         {"tensor", [&] { return tw_tensor_slice(nullptr, 0, 0, 1, &t); }},
         {"view", [&] { return tw_tensor_slice(&t, 0, 0, 1, nullptr); }},
         {"tensor", [&] { return tw_tensor_select(nullptr, 0, 0, &t); }},
         {"view", [&] { return tw_tensor_select(&t, 0, 0, nullptr); }},
         {"tensor", [&] { return tw_tensor_transpose(nullptr, 0, 1, &t); }},
         {"view", [&] { return tw_tensor_transpose(&t, 0, 1, nullptr); }},
         {"tensor", [&] { return tw_tensor_unsqueeze(nullptr, 0, &t); }},
         {"view", [&] { return tw_tensor_unsqueeze(&t, 0, nullptr); }},
         {"managed", [&] { return tw_tensor_from_dlpack(nullptr, &t); }},
         {"managed", [&] { return tw_tensor_from_dlpack_versioned(nullptr, &t); }},
         {"tensor", [&] { return tw_tensor_to_dlpack(nullptr, nullptr, nullptr, &managed); }},
         {"managed", [&] { return tw_tensor_to_dlpack(&t, nullptr, nullptr, nullptr); }},
         {"tensor",
          [&] { return tw_tensor_to_dlpack_versioned(nullptr, nullptr, nullptr, 0, &versioned); }},
         {"managed",
          [&] { return tw_tensor_to_dlpack_versioned(&t, nullptr, nullptr, 0, nullptr); }}});
}

TEST_F(CNulls, Variants) {
  check(
      {{"text", [&] { return tw_variant_parse(nullptr, out_variant.target()); }},
       {"variant", [&] { return tw_variant_parse("tilewright variant 1\n", nullptr); }},
       {"name", [&] { return tw_variant_create(nullptr, nullptr, 0, out_variant.target()); }},
       {"args", [&] { return tw_variant_create("causal", nullptr, 1, out_variant.target()); }},
       {"variant", [&] { return tw_variant_create("causal", nullptr, 0, nullptr); }},
       {"variant", [&] { return tw_variant_and_mask(nullptr, v, out_variant.target()); }},
       {"other", [&] { return tw_variant_and_mask(v, nullptr, out_variant.target()); }},
       {"result", [&] { return tw_variant_and_mask(v, v, nullptr); }},
       {"variant", [&] { return tw_variant_text(nullptr, &text); }},
       {"text", [&] { return tw_variant_text(v, nullptr); }},
       {"variant", [&] { return tw_variant_num_params(nullptr, &count); }},
       {"count", [&] { return tw_variant_num_params(v, nullptr); }},
       {"variant", [&] { return tw_variant_param(nullptr, 0, &param_info); }},
       {"spec", [&] { return tw_rope_create(nullptr, rope.target()); }},
       {"rope", [&] { return tw_rope_create(&rope_spec, nullptr); }},
       {"variant", [&] { return tw_variant_with_rope(nullptr, rope.get(), out_variant.target()); }},
       {"rope", [&] { return tw_variant_with_rope(v, nullptr, out_variant.target()); }},
       {"result", [&] { return tw_variant_with_rope(v, rope.get(), nullptr); }},
       {"slopes", [&] { return tw_alibi_slopes(4, nullptr); }},
       {"document", [&] { return tw_document_bounds(nullptr, 2, ints.data(), ints.data()); }},
       {"begin", [&] { return tw_document_bounds(ints.data(), 2, nullptr, ints.data()); }},
       {"end", [&] { return tw_document_bounds(ints.data(), 2, ints.data(), nullptr); }},
       {"span", [&] { return tw_span_ends(nullptr, 2, ints.data()); }},
       {"ends", [&] { return tw_span_ends(ints.data(), 2, nullptr); }}});
  const std::int32_t* starts = indptr.data();
  const std::int32_t* nodes = parents.data();
  check(
      {{"qo_indptr",
        [&] { return tw_tree_mask_from_parents(nullptr, 1, nodes, 1, tree.target()); }},
       {"parents", [&] { return tw_tree_mask_from_parents(starts, 1, nullptr, 1, tree.target()); }},
       {"mask", [&] { return tw_tree_mask_from_parents(starts, 1, nodes, 1, nullptr); }},
       {"qo_indptr",
        [&] { return tw_tree_mask_from_links(nullptr, 1, nodes, nodes, 1, tree.target()); }},
       {"next_token",
        [&] { return tw_tree_mask_from_links(starts, 1, nullptr, nodes, 1, tree.target()); }},
       {"next_sibling",
        [&] { return tw_tree_mask_from_links(starts, 1, nodes, nullptr, 1, tree.target()); }},
       {"mask", [&] { return tw_tree_mask_from_links(starts, 1, nodes, nodes, 1, nullptr); }},
       {"qo_indptr",
        [&] { return tw_tree_mask_from_matrices(nullptr, 1, seen.data(), 1, tree.target()); }},
       {"seen", [&] { return tw_tree_mask_from_matrices(starts, 1, nullptr, 1, tree.target()); }},
       {"mask", [&] { return tw_tree_mask_from_matrices(starts, 1, seen.data(), 1, nullptr); }},
       {"mask", [&] { return tw_tree_mask_view(nullptr, &t); }},
       {"view", [&] { return tw_tree_mask_view(tree.get(), nullptr); }},
       {"variant", [&] { return tw_explain(nullptr, 8, 8, nullptr, 0, nullptr, map.target()); }},
       {"params", [&] { return tw_explain(v, 8, 8, nullptr, 1, nullptr, map.target()); }},
       {"map", [&] { return tw_explain(v, 8, 8, nullptr, 0, nullptr, nullptr); }},
       {"map", [&] { return tw_mask_map_get(nullptr, &map_info); }},
       {"info", [&] { return tw_mask_map_get(map.get(), nullptr); }},
       {"map", [&] { return tw_mask_map_svg(nullptr, nullptr, 0, &count); }},
       {"buffer", [&] { return tw_mask_map_svg(map.get(), nullptr, 5, &count); }},
       {"length", [&] { return tw_mask_map_svg(map.get(), nullptr, 0, nullptr); }}});
}

TEST_F(CNulls, CachesAndTables) {
  const tw_tensor pages = to_c(TensorView(ints.data(), DType::i32, {2, 2}));
  const tw_tensor list = to_c(TensorView(ints.data(), DType::i32, {2}));
  const tw_tensor kv = to_c(TensorView(floats.data(), DType::f32, {1, 2, 1, 1, 8}));
  check({{"kv", [&] { return tw_kv_cache_combined(nullptr, TW_NHD, 1, &cache); }},
         {"cache", [&] { return tw_kv_cache_combined(&kv, TW_NHD, 1, nullptr); }},
         {"k", [&] { return tw_kv_cache_separate(nullptr, &t, TW_NHD, &cache); }},
         {"v", [&] { return tw_kv_cache_separate(&t, nullptr, TW_NHD, &cache); }},
         {"cache", [&] { return tw_kv_cache_separate(&t, &t, TW_NHD, nullptr); }},
         {"kv", [&] { return tw_kv_cache_interleaved(nullptr, 4, TW_NHD, &cache); }},
         {"cache", [&] { return tw_kv_cache_interleaved(&t, 4, TW_NHD, nullptr); }},
         {"block_table", [&] { return tw_page_table_padded(nullptr, 4, nullptr, &table); }},
         {"table", [&] { return tw_page_table_padded(&pages, 4, nullptr, nullptr); }},
         {"indptr", [&] { return tw_page_table_csr(nullptr, &list, 4, nullptr, &table); }},
         {"indices", [&] { return tw_page_table_csr(&list, nullptr, 4, nullptr, &table); }},
         {"table", [&] { return tw_page_table_csr(&list, &list, 4, nullptr, nullptr); }},
         {"slots", [&] { return tw_page_table_token_slots(nullptr, nullptr, &table); }},
         {"table", [&] { return tw_page_table_token_slots(&pages, nullptr, nullptr); }},
         {"kv_indptr", [&] { return tw_page_table_ragged(nullptr, &table); }},
         {"table", [&] { return tw_page_table_ragged(&list, nullptr); }},
         {"table", [&] { return tw_page_table_contiguous(4, nullptr); }}});
}

TEST_F(CNulls, AttentionAndPlan) {
  const tw_attention* no_attention = nullptr;
  AttentionHandle out_attention;
  PlanHandle out_plan;
  tw_device device{};
  tw_plan_piece piece = sized<tw_plan_piece>();
  check({{"spec", [&] { return tw_supports({}, nullptr, &number, &text); }},
         {"ok", [&] { return tw_supports({}, &spec, nullptr, &text); }},
         {"spec", [&] { return tw_attention_create(nullptr, {}, out_attention.target()); }},
         {"attention", [&] { return tw_attention_create(&spec, {}, nullptr); }},
         {"attention", [&] { return tw_attention_get_spec(nullptr, &spec); }},
         {"spec", [&] { return tw_attention_get_spec(a, nullptr); }},
         {"attention", [&] { return tw_attention_get_device(nullptr, &device); }},
         {"device", [&] { return tw_attention_get_device(a, nullptr); }},
         {"attention", [&] { return tw_attention_run(nullptr, p, &t, &cache, 1, &run_args); }},
         {"plan", [&] { return tw_attention_run(a, nullptr, &t, &cache, 1, &run_args); }},
         {"q", [&] { return tw_attention_run(a, p, nullptr, &cache, 1, &run_args); }},
         {"kv", [&] { return tw_attention_run(a, p, &t, nullptr, 1, &run_args); }},
         {"args", [&] { return tw_attention_run(a, p, &t, &cache, 1, nullptr); }},
         {"attentions", [&] { return tw_plan_workspace_bytes(nullptr, 1, &limits, &count); }},
         {"attentions[0]",
          [&] { return tw_plan_workspace_bytes(&no_attention, 1, &limits, &count); }},
         {"limits", [&] { return tw_plan_workspace_bytes(&a, 1, nullptr, &count); }},
         {"bytes", [&] { return tw_plan_workspace_bytes(&a, 1, &limits, nullptr); }},
         {"attentions",
          [&] { return tw_plan_create(nullptr, 1, &limits, nullptr, out_plan.target()); }},
         {"limits", [&] { return tw_plan_create(&a, 1, nullptr, nullptr, out_plan.target()); }},
         {"plan", [&] { return tw_plan_create(&a, 1, &limits, nullptr, nullptr); }},
         {"plan", [&] { return tw_plan_prepare(nullptr); }},
         {"plan", [&] { return tw_plan_get_limits(nullptr, &limits); }},
         {"limits", [&] { return tw_plan_get_limits(p, nullptr); }},
         {"plan", [&] { return tw_plan_get_stats(nullptr, a, &stats); }},
         {"attention", [&] { return tw_plan_get_stats(p, nullptr, &stats); }},
         {"stats", [&] { return tw_plan_get_stats(p, a, nullptr); }},
         {"plan", [&] { return tw_plan_get_pieces(nullptr, a, &piece, 1, &count); }},
         {"attention", [&] { return tw_plan_get_pieces(p, nullptr, &piece, 1, &count); }},
         {"pieces", [&] { return tw_plan_get_pieces(p, a, nullptr, 1, &count); }},
         {"count", [&] { return tw_plan_get_pieces(p, a, &piece, 1, nullptr); }},
         {"plan", [&] { return tw_plan_get_status(nullptr, &number, 1, &count); }},
         {"words", [&] { return tw_plan_get_status(p, nullptr, 1, &count); }},
         {"count", [&] { return tw_plan_get_status(p, &number, 1, nullptr); }},
         {"text", [&] { return tw_describe_status(1, nullptr); }},
         {"plan", [&] { return tw_plan_copy_status(nullptr, &words, nullptr); }},
         {"words", [&] { return tw_plan_copy_status(p, nullptr, nullptr); }},
         {"plan", [&] { return tw_plan_set_debug(nullptr, 1); }},
         {"plan", [&] { return tw_plan_get_debug(nullptr, &number); }},
         {"debug", [&] { return tw_plan_get_debug(p, nullptr); }},
         {"variant",
          [&] {
            return tw_block_structure_make(nullptr, &batch, nullptr, 0, 0, 0, 0, 0, &blocks,
                                           out_memory.target());
          }},
         {"batch",
          [&] {
            return tw_block_structure_make(v, nullptr, nullptr, 0, 0, 0, 0, 0, &blocks,
                                           out_memory.target());
          }},
         {"memory",
          [&] {
            return tw_block_structure_make(v, &batch, nullptr, 0, 0, 0, 0, 0, &blocks, nullptr);
          }},
         {"plan", [&] { return tw_plan_update(nullptr, &batch, &plan_input, 1, nullptr); }},
         {"batch", [&] { return tw_plan_update(p, nullptr, &plan_input, 1, nullptr); }},
         {"inputs", [&] { return tw_plan_update(p, &batch, nullptr, 1, nullptr); }}});
}

TEST_F(CNulls, BlocksWithoutAResult) {
  SimpleBatch b(dims, DType::f32, {{1, 5}}, 4, 1);
  const tw_batch good = to_c(b.batch());
  check({{"blocks", [&] {
            return tw_block_structure_make(v, &good, nullptr, 0, 0, 0, 0, 0, nullptr,
                                           out_memory.target());
          }}});
  EXPECT_EQ(out_memory.get(), nullptr);
}

TEST_F(CNulls, Operators) {
  const tw_tensor slots = to_c(TensorView(ints.data(), DType::i32, {1}));
  const auto write = [&](const tw_tensor* k, const tw_tensor* values, const tw_kv_cache* to,
                         const tw_tensor* where) {
    return tw_write_kv_cache(k, values, to, where, nullptr, nullptr, nullptr, nullptr);
  };
  cache.k = cache.v = to_c(TensorView(floats.data(), DType::f32, {1, 1, 1, 8}));
  tw_rope_and_cache_args both = sized<tw_rope_and_cache_args>();
  both.rope = rope.get();
  const auto rotate_and_write = [&](const tw_tensor* k, const tw_tensor* q_out,
                                    const tw_kv_cache* to, const tw_rope_and_cache_args* how) {
    return tw_apply_rope_and_write_kv_cache(&t, k, &t, &slots, q_out, to, &slots, how);
  };
  check(
      {{"k", [&] { return rotate_and_write(nullptr, &t, &cache, &both); }},
       {"q_out", [&] { return rotate_and_write(&t, nullptr, &cache, &both); }},
       {"cache", [&] { return rotate_and_write(&t, &t, nullptr, &both); }},
       {"args", [&] { return rotate_and_write(&t, &t, &cache, nullptr); }},
       {"args.rope",
        [&] {
          const tw_rope_and_cache_args none = sized<tw_rope_and_cache_args>();
          return rotate_and_write(&t, &t, &cache, &none);
        }},
       {"k", [&] { return write(nullptr, &t, &cache, &slots); }},
       {"v", [&] { return write(&t, nullptr, &cache, &slots); }},
       {"cache", [&] { return write(&t, &t, nullptr, &slots); }},
       {"slot_mapping", [&] { return write(&t, &t, &cache, nullptr); }},
       {"x", [&] { return tw_rms_norm(nullptr, &t, &t, 1, 0, nullptr, nullptr); }},
       {"weight", [&] { return tw_rms_norm(&t, nullptr, &t, 1, 0, nullptr, nullptr); }},
       {"out", [&] { return tw_rms_norm(&t, &t, nullptr, 1, 0, nullptr, nullptr); }},
       {"x", [&] { return tw_gather_rows(nullptr, &t, &t, nullptr); }},
       {"indices", [&] { return tw_gather_rows(&t, nullptr, &t, nullptr); }},
       {"out", [&] { return tw_gather_rows(&t, &t, nullptr, nullptr); }},
       {"x", [&] { return tw_pack_bits(nullptr, &t, 0, nullptr); }},
       {"out", [&] { return tw_pack_bits(&t, nullptr, 0, nullptr); }},
       {"x", [&] { return tw_segment_pack_bits(nullptr, &t, &t, &t, 0, nullptr); }},
       {"indptr", [&] { return tw_segment_pack_bits(&t, nullptr, &t, &t, 0, nullptr); }},
       {"out", [&] { return tw_segment_pack_bits(&t, &t, nullptr, &t, 0, nullptr); }},
       {"out_indptr", [&] { return tw_segment_pack_bits(&t, &t, &t, nullptr, 0, nullptr); }},
       {"x", [&] { return tw_layer_norm(nullptr, &t, nullptr, &t, 1, nullptr, nullptr); }},
       {"weight", [&] { return tw_layer_norm(&t, nullptr, nullptr, &t, 1, nullptr, nullptr); }},
       {"out", [&] { return tw_layer_norm(&t, &t, nullptr, nullptr, 1, nullptr, nullptr); }},
       {"x", [&] { return tw_fused_add_rms_norm(nullptr, &t, &t, &t, 1, 0, nullptr, nullptr); }},
       {"residual",
        [&] { return tw_fused_add_rms_norm(&t, nullptr, &t, &t, 1, 0, nullptr, nullptr); }},
       {"weight",
        [&] { return tw_fused_add_rms_norm(&t, &t, nullptr, &t, 1, 0, nullptr, nullptr); }},
       {"out", [&] { return tw_fused_add_rms_norm(&t, &t, &t, nullptr, 1, 0, nullptr, nullptr); }},
       {"x", [&] { return tw_apply_rope(nullptr, &slots, &t, rope.get(), nullptr, nullptr); }},
       {"positions", [&] { return tw_apply_rope(&t, nullptr, &t, rope.get(), nullptr, nullptr); }},
       {"out", [&] { return tw_apply_rope(&t, &slots, nullptr, rope.get(), nullptr, nullptr); }},
       {"rope", [&] { return tw_apply_rope(&t, &slots, &t, nullptr, nullptr, nullptr); }},
       {"cos_sin_cache",
        [&] {
          return tw_apply_rope_with_cos_sin_cache(&t, &slots, nullptr, &t, 0, nullptr, nullptr);
        }},
       {"out",
        [&] {
          return tw_apply_rope_with_cos_sin_cache(&t, &slots, &t, nullptr, 0, nullptr, nullptr);
        }},
       {"x", [&] { return tw_act_and_mul(nullptr, &t, TW_SILU, nullptr); }},
       {"out", [&] { return tw_act_and_mul(&t, nullptr, TW_SILU, nullptr); }},
       {"values", [&] { return tw_merge_states(nullptr, &t, &t, nullptr, nullptr); }},
       {"lse", [&] { return tw_merge_states(&t, nullptr, &t, nullptr, nullptr); }},
       {"out", [&] { return tw_merge_states(&t, &t, nullptr, nullptr, nullptr); }},
       {"logits", [&] { return tw_sample(nullptr, &sampling, &slots); }},
       {"args", [&] { return tw_sample(&t, nullptr, &slots); }},
       {"tokens", [&] { return tw_sample(&t, &sampling, nullptr); }}});
}

TEST_F(CNulls, Kernels) {
  SpecsHandle specs;
  EXPECT_OK(tw_model_attention_specs("llama-3.1-8b", TW_DEFAULT_DTYPE, specs.target()));
  auto report = sized<tw_kernel_report>();
  auto entry = sized<tw_kernel_cache_entry>();
  const char* const* names = nullptr;
  const char* const no_text = nullptr;
  tw_kernel_reports* reports = nullptr;
  auto options = sized<tw_compile_options>();
  options.num_archs = 1;
  auto plans = sized<tw_compile_options>();
  plans.num_plans = 1;
  check({{"path", [&] { return tw_set_nvrtc_path(nullptr); }},
         {"folders", [&] { return tw_set_python_folders(nullptr, 1); }},
         {"folders[0]", [&] { return tw_set_python_folders(&no_text, 1); }},
         {"info", [&] { return tw_get_nvrtc_info(nullptr); }},
         {"info", [&] { return tw_get_cuda_info(nullptr); }},
         {"device", [&] { return tw_get_cuda_device(0, nullptr); }},
         {"path", [&] { return tw_kernel_cache_path(nullptr); }},
         {"folder", [&] { return tw_set_kernel_cache_path(nullptr); }},
         {"cache", [&] { return tw_kernel_cache_read(nullptr); }},
         {"cache", [&] { return tw_kernel_cache_count(nullptr, &count); }},
         {"cache", [&] { return tw_kernel_cache_get(nullptr, 0, &entry); }},
         {"names", [&] { return tw_model_names(nullptr, &count); }},
         {"count", [&] { return tw_model_names(&names, nullptr); }},
         {"model",
          [&] { return tw_model_attention_specs(nullptr, TW_DEFAULT_DTYPE, specs.target()); }},
         {"specs", [&] { return tw_model_attention_specs("phi-4", TW_DEFAULT_DTYPE, nullptr); }},
         {"specs", [&] { return tw_common_attention_specs(nullptr); }},
         {"specs", [&] { return tw_attention_specs_count(nullptr, &count); }},
         {"count", [&] { return tw_attention_specs_count(specs.get(), nullptr); }},
         {"specs", [&] { return tw_attention_specs_get(nullptr, 0, &spec); }},
         {"spec", [&] { return tw_attention_specs_get(specs.get(), 0, nullptr); }},
         {"reports", [&] { return tw_compile_kernels(nullptr, 0, nullptr, nullptr); }},
         {"specs", [&] { return tw_compile_kernels(nullptr, 1, nullptr, &reports); }},
         {"options.archs", [&] { return tw_compile_kernels(nullptr, 0, &options, &reports); }},
         {"options.plans", [&] { return tw_compile_kernels(nullptr, 0, &plans, &reports); }},
         {"reports", [&] { return tw_kernel_reports_count(nullptr, &count); }},
         {"reports", [&] { return tw_kernel_reports_get(nullptr, 0, &report); }},
         {"path", [&] { return tw_load_kernel_pack(nullptr, &count); }}});
  EXPECT_EQ(reports, nullptr);
}

TEST_F(CNulls, KernelChoice) {
  auto choice = sized<tw_kernel_choice>();
  auto model = sized<tw_gpu_model>();
  auto lengths = sized<tw_request_lengths>();
  lengths.q_len = lengths.kv_len = 1;
  auto work = sized<tw_batch_work>();
  auto most = sized<tw_limits>();
  const char* const* names = nullptr;
  const tw_gpu_model nameless = model;
  const auto explain = [&](const tw_attention_spec* s, const tw_limits* l,
                           const tw_request_lengths* b, const tw_gpu_model* g, tw_batch_work* w) {
    return tw_explain_batch(s, l, b, 1, g, nullptr, 0, 16, w);
  };
  EXPECT_OK(tw_get_gpu_model("h100", &model));
  check({{"spec", [&] { return tw_choose_kernels(nullptr, &limits, "sm_80", &choice, nullptr); }},
         {"limits", [&] { return tw_choose_kernels(&spec, nullptr, "sm_80", &choice, nullptr); }},
         {"arch", [&] { return tw_choose_kernels(&spec, &limits, nullptr, &choice, nullptr); }},
         {"names", [&] { return tw_gpu_model_names(nullptr, &count); }},
         {"count", [&] { return tw_gpu_model_names(&names, nullptr); }},
         {"name", [&] { return tw_get_gpu_model(nullptr, &model); }},
         {"model", [&] { return tw_get_gpu_model("h100", nullptr); }},
         {"batch", [&] { return tw_limits_of(nullptr, 1, &most); }},
         {"limits", [&] { return tw_limits_of(&lengths, 1, nullptr); }},
         {"spec", [&] { return explain(nullptr, &limits, &lengths, &model, &work); }},
         {"limits", [&] { return explain(&spec, nullptr, &lengths, &model, &work); }},
         {"batch", [&] { return explain(&spec, &limits, nullptr, &model, &work); }},
         {"gpu", [&] { return explain(&spec, &limits, &lengths, nullptr, &work); }},
         {"gpu.arch", [&] { return explain(&spec, &limits, &lengths, &nameless, &work); }},
         {"work", [&] { return explain(&spec, &limits, &lengths, &model, nullptr); }}});
  EXPECT_OK(tw_choose_kernels(&spec, &limits, "sm_80", nullptr, nullptr));
}

TEST_F(CNulls, DestroyTakesThem) {
  tw_kernel_cache_destroy(nullptr);
  tw_attention_specs_destroy(nullptr);
  tw_kernel_reports_destroy(nullptr);
  tw_variant_destroy(nullptr);
  tw_rope_destroy(nullptr);
  tw_tree_mask_destroy(nullptr);
  tw_mask_map_destroy(nullptr);
  tw_block_memory_destroy(nullptr);
  tw_attention_destroy(nullptr);
  tw_plan_destroy(nullptr);
}

}  // namespace
}  // namespace tilewright::test
