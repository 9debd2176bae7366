// SPDX-License-Identifier: Apache-2.0
#include <tilewright/c_attention.h>

#include "c_api/handles.h"

using namespace tilewright;
using namespace tilewright::c_api;

namespace {

AttentionSpec read_spec(const tw_attention_spec* spec) {
  return read_attention_spec("spec", read_struct("spec", spec));
}

}  // namespace

namespace tilewright::c_api {

AttentionSpec read_attention_spec(const Path& path, const tw_attention_spec& given) {
  AttentionSpec result;
  const auto optional = [&](const char* name, tw_dtype dtype) {
    return dtype == TW_DEFAULT_DTYPE ? std::nullopt
                                     : std::optional<DType>(read_dtype({path, name}, dtype));
  };
  result.num_qo_heads = given.num_qo_heads;
  result.num_kv_heads = given.num_kv_heads;
  result.head_dim = given.head_dim;
  result.head_dim_vo = given.head_dim_vo;
  result.q_dtype = optional("q_dtype", given.q_dtype).value_or(result.q_dtype);
  result.kv_dtype = optional("kv_dtype", given.kv_dtype).value_or(result.kv_dtype);
  result.v_dtype = optional("v_dtype", given.v_dtype);
  result.out_dtype = optional("out_dtype", given.out_dtype);
  if (given.variant != nullptr) result.variant = given.variant->variant;
  return result;
}

tw_attention_spec c_spec(const AttentionSpec& spec, const tw_variant& variant) {
  tw_attention_spec result{};
  result.num_qo_heads = spec.num_qo_heads;
  result.num_kv_heads = spec.num_kv_heads;
  result.head_dim = spec.head_dim;
  result.head_dim_vo = spec.value_dim();
  result.q_dtype = c_dtype(spec.q_dtype);
  result.kv_dtype = c_dtype(spec.kv_dtype);
  result.v_dtype = c_dtype(spec.value_dtype());
  result.out_dtype = c_dtype(spec.output_dtype());
  result.variant = &variant;
  return result;
}

}  // namespace tilewright::c_api

tw_status tw_supports(tw_device device, const tw_attention_spec* spec, int32_t* ok,
                      const char** reason) {
  return guarded([&] {
    required("ok", ok);
    const Support support = supports(read_device("device", device), read_spec(spec));
    thread_local std::string text;
    text = support.reason;
    *ok = support.ok ? 1 : 0;
    if (reason != nullptr) *reason = text.c_str();
  });
}

tw_status tw_attention_create(const tw_attention_spec* spec, tw_device device,
                              tw_attention** attention) {
  return guarded(
      [&] { hand_out("attention", attention, read_spec(spec), read_device("device", device)); });
}

void tw_attention_destroy(tw_attention* attention) {
  give_back(attention);
}

tw_status tw_attention_get_spec(const tw_attention* attention, tw_attention_spec* spec) {
  return guarded([&] {
    const AttentionSpec& held = required("attention", attention).attention.spec();
    write_struct("spec", spec, c_spec(held, attention->variant));
  });
}

tw_status tw_attention_get_device(const tw_attention* attention, tw_device* device) {
  return guarded([&] {
    required("device", device) = c_device(required("attention", attention).attention.device());
  });
}

tw_status tw_attention_run(const tw_attention* attention, tw_plan* plan, const tw_tensor* q,
                           const tw_kv_cache* kv, size_t num_levels, const tw_run_args* args) {
  return guarded([&] {
    const Attention& run = required("attention", attention).attention;
    required("plan", plan).require_batch();
    const TensorView queries = read_tensor("q", q);
    const std::vector<KvCache>& caches = plan->scratch.caches(kv, num_levels);
    run.run(plan->plan, queries, caches, plan->scratch.args(args));
  });
}
