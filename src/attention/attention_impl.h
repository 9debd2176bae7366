// SPDX-License-Identifier: Apache-2.0
// What an Attention holds: its spec, and its variant compiled for its device.
#pragma once

#include <tilewright/attention.h>

#include "cpu/compiled_variant.h"

namespace tilewright {

class AttentionImpl {
 public:
  AttentionImpl(const AttentionSpec& attention_spec, Device where)
      : spec(attention_spec),
        device(where),
        variant(spec.variant, spec.head_dim),
        soft_cap_param(variant.binder.index_of("logits_soft_cap")) {}

  AttentionSpec spec;
  Device device;
  cpu::CompiledVariant variant;
  int soft_cap_param;  // -1: the variant has none
};

}  // namespace tilewright
