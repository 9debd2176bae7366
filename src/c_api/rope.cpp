// SPDX-License-Identifier: Apache-2.0
#include "base/rope.h"

#include <tilewright/c_variant.h>

#include "c_api/handles.h"

using namespace tilewright;
using namespace tilewright::c_api;

namespace {

// 0 is "not given".
void set_if_given(double& member, double value) {
  if (value != 0) member = value;
}

RopeScaling read_scaling(const Path& path, const tw_rope_spec& given) {
  check_enum({path, "scaling"}, given.scaling, TW_ROPE_LONGROPE);
  switch (given.scaling) {
    case TW_ROPE_NTK: {
      NtkScaling ntk;
      set_if_given(ntk.factor, given.factor);
      return ntk;
    }
    case TW_ROPE_LLAMA3: {
      Llama3Scaling llama3;
      set_if_given(llama3.factor, given.factor);
      set_if_given(llama3.low_freq_factor, given.low_freq_factor);
      set_if_given(llama3.high_freq_factor, given.high_freq_factor);
      set_if_given(llama3.original_max_position, given.original_max_position);
      return llama3;
    }
    case TW_ROPE_YARN: {
      YarnScaling yarn;
      set_if_given(yarn.factor, given.factor);
      set_if_given(yarn.original_max_position, given.original_max_position);
      set_if_given(yarn.beta_fast, given.beta_fast);
      set_if_given(yarn.beta_slow, given.beta_slow);
      set_if_given(yarn.attention_factor, given.attention_factor);
      yarn.truncate = !read_flag({path, "exact_ramp"}, given.exact_ramp);
      return yarn;
    }
    case TW_ROPE_LONGROPE: {
      LongRopeScaling longrope;
      check_count({path, "num_factors"}, given.num_factors);
      if (given.num_factors > 0) {
        required({path, "factors"}, given.factors);
        longrope.factors.assign(given.factors, given.factors + given.num_factors);
      }
      set_if_given(longrope.attention_factor, given.attention_factor);
      return longrope;
    }
    default:
      return {};
  }
}

RopeSpec read_rope(const tw_rope_spec* spec) {
  const Path path("spec");
  const tw_rope_spec given = read_struct(path, spec);
  RopeSpec rope;
  rope.dim = given.dim;
  rope.interleaved = read_flag({path, "interleaved"}, given.interleaved);
  set_if_given(rope.theta, given.theta);
  set_if_given(rope.position_scale, given.position_scale);
  rope.scaling = read_scaling(path, given);
  check_rope(rope);
  return rope;
}

}  // namespace

tw_status tw_rope_create(const tw_rope_spec* spec, tw_rope** rope) {
  return guarded([&] { hand_out("rope", rope, tw_rope{read_rope(spec)}); });
}

void tw_rope_destroy(tw_rope* rope) {
  give_back(rope);
}
