// SPDX-License-Identifier: Apache-2.0
// Device code of variants as functions of the host, by kernels/arch's emulation.
#pragma once

#include <vector>

#include "attention/math.h"
#include "attention/variant.h"

namespace tilewright::test {

struct CudaEntry {
  bool has_logits = false, has_mask = false, has_output = false, has_rope = false, softmax = true;
  bool depends_on_head = false, one_interval = false, rope_interleaved = false;
  int mask_class = 0, num_params = 0, rope_dim = 0;
  float (*logits)(const tw::QueryRow&, int, float, const tw::ParamSlot*) = nullptr;
  bool (*mask)(const tw::QueryRow&, int, const tw::ParamSlot*) = nullptr;
  float (*output)(const tw::QueryRow&, float, const tw::ParamSlot*) = nullptr;
  plan::MaskRanges (*ranges)(const plan::QueryRange&, const tw::ParamSlot*) = nullptr;
  plan::MaskInterval (*interval)(const plan::QueryRange&, const tw::ParamSlot*) = nullptr;
  tw::Rotation (*rotation)(int, int) = nullptr;
};

template <typename V>
CudaEntry entry_of() {
  using Slots = const tw::ParamSlot*;
  CudaEntry e;
  e.has_logits = V::kHasLogits;
  e.has_mask = V::kHasMask;
  e.has_output = V::kHasOutput;
  e.has_rope = V::kHasRope;
  e.softmax = V::kSoftmax;
  e.depends_on_head = V::kMaskDependsOnHead;
  e.one_interval = V::kOneInterval;
  e.rope_interleaved = V::kRopeInterleaved;
  e.mask_class = V::kMaskClass;
  e.num_params = V::kNumParams;
  e.rope_dim = V::kRopeDim;
  e.logits = [](const tw::QueryRow& row, int kv_pos, float logit, Slots params) {
    return V::logits(row, kv_pos, logit, params);
  };
  e.mask = [](const tw::QueryRow& row, int kv_pos, Slots params) {
    return V::mask(row, kv_pos, params);
  };
  e.output = [](const tw::QueryRow& row, float value, Slots params) {
    return V::output(row, value, params);
  };
  e.ranges = [](const plan::QueryRange& queries, Slots params) {
    return V::ranges(queries, params);
  };
  e.interval = [](const plan::QueryRange& queries, Slots params) {
    return V::interval(queries, params);
  };
  e.rotation = [](int pair, int position) { return V::rotation(pair, position); };
  return e;
}

// By number of the case.
std::vector<CudaEntry> cuda_table();

}  // namespace tilewright::test
