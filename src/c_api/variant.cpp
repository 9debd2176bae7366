// SPDX-License-Identifier: Apache-2.0
#include <tilewright/c_variant.h>
#include <tilewright/variant.h>

#include "c_api/handles.h"

using namespace tilewright;
using namespace tilewright::c_api;

tw_status tw_variant_parse(const char* text, tw_variant** variant) {
  return guarded([&] { hand_out("variant", variant, deserialize(&required("text", text))); });
}

tw_status tw_variant_and_mask(const tw_variant* variant, const tw_variant* other,
                              tw_variant** result) {
  return guarded([&] {
    Variant both = required("variant", variant).variant;
    const Expr& mask = required("other", other).variant.mask;
    if (mask.defined()) both.mask = both.mask.defined() ? both.mask && mask : mask;
    both.validate();
    hand_out("result", result, std::move(both));
  });
}

void tw_variant_destroy(tw_variant* variant) {
  give_back(variant);
}

tw_status tw_variant_text(const tw_variant* variant, const char** text) {
  return guarded([&] { required("text", text) = required("variant", variant).text.c_str(); });
}

tw_status tw_variant_num_params(const tw_variant* variant, size_t* count) {
  return guarded([&] { required("count", count) = required("variant", variant).params.size(); });
}

tw_status tw_variant_param(const tw_variant* variant, size_t index, tw_param_info* info) {
  return guarded([&] {
    const std::vector<Param>& params = required("variant", variant).params;
    require(index < params.size(), "index is {}: the variant has {} parameters", index,
            params.size());
    const Param& param = params[index];
    tw_param_info result{};
    result.name = param.name().c_str();
    result.is_real = param.type() == ValueType::real ? 1 : 0;
    result.rank = param.rank();
    result.bind = param.bind() == Bind::run ? TW_BIND_RUN : TW_BIND_PLAN;
    result.has_default = param.default_value().has_value() ? 1 : 0;
    result.default_value = param.default_value().value_or(0);
    write_struct("info", info, result);
  });
}

tw_status tw_variant_with_rope(const tw_variant* variant, const tw_rope* rope,
                               tw_variant** result) {
  return guarded([&] {
    Variant rotated = required("variant", variant).variant;
    rotated.rope = required("rope", rope).spec;
    rotated.validate();
    hand_out("result", result, std::move(rotated));
  });
}
