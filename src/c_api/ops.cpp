// SPDX-License-Identifier: Apache-2.0
#include <tilewright/c_ops.h>
#include <tilewright/ops.h>

#include "c_api/handles.h"

using namespace tilewright;
using namespace tilewright::c_api;

namespace {

RopeSections read_sections(const tw_rope_sections* sections) {
  static_assert(TW_MAX_ROPE_AXES == RopeSections::kMaxAxes);
  RopeSections result;
  if (sections == nullptr) return result;
  const Path path("sections");
  const tw_rope_sections given = read_struct(path, sections);
  check_reserved({path, "reserved"}, given.reserved);
  std::copy(std::begin(given.pairs), std::end(given.pairs), result.pairs.begin());
  result.interleaved = read_flag({path, "interleaved"}, given.interleaved);
  return result;
}

RopeAndCacheArgs read_rope_and_cache_args(const tw_rope_and_cache_args* args) {
  const Path path("args");
  const tw_rope_and_cache_args given = read_struct(path, args);
  check_reserved({path, "reserved"}, given.reserved);
  RopeAndCacheArgs result;
  if (given.cos_sin_cache == nullptr) {
    result.rope = required({path, "rope"}, given.rope).spec;
  } else if (given.rope != nullptr) {
    raise(ErrorCode::invalid_argument,
          "args.rope and args.cos_sin_cache are given: one of them must be NULL");
  }
  const bool interleaved = read_flag({path, "interleaved"}, given.interleaved);
  if (given.cos_sin_cache != nullptr) {
    result.cos_sin_cache = read_tensor({path, "cos_sin_cache"}, given.cos_sin_cache);
    result.rope.interleaved = interleaved;
  }
  result.sections = read_sections(given.sections);
  result.qk_norm.q_weight = read_optional_tensor({path, "q_norm_weight"}, given.q_norm_weight);
  result.qk_norm.k_weight = read_optional_tensor({path, "k_norm_weight"}, given.k_norm_weight);
  if (given.norm_eps != 0) result.qk_norm.eps = given.norm_eps;
  result.qk_norm.weight_offset = given.norm_weight_offset;
  result.k_scale = read_scale({path, "k_scale"}, given.k_scale);
  result.v_scale = read_scale({path, "v_scale"}, given.v_scale);
  result.token_indptr = read_optional_tensor({path, "token_indptr"}, given.token_indptr);
  result.stream = read_stream(given.stream);
  return result;
}

}  // namespace

tw_status tw_write_kv_cache(const tw_tensor* k, const tw_tensor* v, const tw_kv_cache* cache,
                            const tw_tensor* slot_mapping, const tw_real* k_scale,
                            const tw_real* v_scale, const tw_tensor* token_indptr,
                            tw_stream stream) {
  return guarded([&] {
    write_kv_cache(read_tensor("k", k), read_tensor("v", v),
                   read_kv_cache("cache", read_struct("cache", cache)),
                   read_tensor("slot_mapping", slot_mapping), read_scale("k_scale", k_scale),
                   read_scale("v_scale", v_scale),
                   read_optional_tensor("token_indptr", token_indptr), read_stream(stream));
  });
}

tw_status tw_rms_norm(const tw_tensor* x, const tw_tensor* weight, const tw_tensor* out, float eps,
                      float weight_offset, const tw_real* out_scale, tw_stream stream) {
  return guarded([&] {
    rms_norm(read_tensor("x", x), read_tensor("weight", weight), read_tensor("out", out), eps,
             weight_offset, read_scale("out_scale", out_scale), read_stream(stream));
  });
}

tw_status tw_fused_add_rms_norm(const tw_tensor* x, const tw_tensor* residual,
                                const tw_tensor* weight, const tw_tensor* out, float eps,
                                float weight_offset, const tw_real* out_scale, tw_stream stream) {
  return guarded([&] {
    fused_add_rms_norm(read_tensor("x", x), read_tensor("residual", residual),
                       read_tensor("weight", weight), read_tensor("out", out), eps, weight_offset,
                       read_scale("out_scale", out_scale), read_stream(stream));
  });
}

tw_status tw_layer_norm(const tw_tensor* x, const tw_tensor* weight, const tw_tensor* bias,
                        const tw_tensor* out, float eps, const tw_real* out_scale,
                        tw_stream stream) {
  return guarded([&] {
    layer_norm(read_tensor("x", x), read_tensor("weight", weight),
               read_optional_tensor("bias", bias), read_tensor("out", out), eps,
               read_scale("out_scale", out_scale), read_stream(stream));
  });
}

tw_status tw_apply_rope(const tw_tensor* x, const tw_tensor* positions, const tw_tensor* out,
                        const tw_rope* rope, const tw_rope_sections* sections, tw_stream stream) {
  return guarded([&] {
    apply_rope(read_tensor("x", x), read_tensor("positions", positions), read_tensor("out", out),
               required("rope", rope).spec, read_sections(sections), read_stream(stream));
  });
}

tw_status tw_apply_rope_with_cos_sin_cache(const tw_tensor* x, const tw_tensor* positions,
                                           const tw_tensor* cos_sin_cache, const tw_tensor* out,
                                           int32_t interleaved, const tw_rope_sections* sections,
                                           tw_stream stream) {
  return guarded([&] {
    apply_rope_with_cos_sin_cache(read_tensor("x", x), read_tensor("positions", positions),
                                  read_tensor("cos_sin_cache", cos_sin_cache),
                                  read_tensor("out", out), read_flag("interleaved", interleaved),
                                  read_sections(sections), read_stream(stream));
  });
}

tw_status tw_act_and_mul(const tw_tensor* x, const tw_tensor* out, int32_t activation,
                         tw_stream stream) {
  return guarded([&] {
    act_and_mul(read_tensor("x", x), read_tensor("out", out),
                read_enum("activation", activation, Activation::gelu_tanh), read_stream(stream));
  });
}

tw_status tw_merge_states(const tw_tensor* values, const tw_tensor* lse, const tw_tensor* out,
                          const tw_tensor* lse_out, tw_stream stream) {
  return guarded([&] {
    merge_states(read_tensor("values", values), read_tensor("lse", lse), read_tensor("out", out),
                 read_optional_tensor("lse_out", lse_out), read_stream(stream));
  });
}

tw_status tw_gather_rows(const tw_tensor* x, const tw_tensor* indices, const tw_tensor* out,
                         tw_stream stream) {
  return guarded([&] {
    gather_rows(read_tensor("x", x), read_tensor("indices", indices), read_tensor("out", out),
                read_stream(stream));
  });
}

tw_status tw_pack_bits(const tw_tensor* x, const tw_tensor* out, int32_t order, tw_stream stream) {
  return guarded([&] {
    pack_bits(read_tensor("x", x), read_tensor("out", out),
              read_enum("order", order, BitOrder::little), read_stream(stream));
  });
}

tw_status tw_segment_pack_bits(const tw_tensor* x, const tw_tensor* indptr, const tw_tensor* out,
                               const tw_tensor* out_indptr, int32_t order, tw_stream stream) {
  return guarded([&] {
    segment_pack_bits(read_tensor("x", x), read_tensor("indptr", indptr), read_tensor("out", out),
                      read_tensor("out_indptr", out_indptr),
                      read_enum("order", order, BitOrder::little), read_stream(stream));
  });
}

tw_status tw_apply_rope_and_write_kv_cache(const tw_tensor* q, const tw_tensor* k,
                                           const tw_tensor* v, const tw_tensor* positions,
                                           const tw_tensor* q_out, const tw_kv_cache* cache,
                                           const tw_tensor* slot_mapping,
                                           const tw_rope_and_cache_args* args) {
  return guarded([&] {
    apply_rope_and_write_kv_cache(read_tensor("q", q), read_tensor("k", k), read_tensor("v", v),
                                  read_tensor("positions", positions), read_tensor("q_out", q_out),
                                  read_kv_cache("cache", read_struct("cache", cache)),
                                  read_tensor("slot_mapping", slot_mapping),
                                  read_rope_and_cache_args(args));
  });
}
