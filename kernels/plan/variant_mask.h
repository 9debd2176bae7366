// SPDX-License-Identifier: Apache-2.0
// The mask of a variant (attention/variant.h) with an attention's parameters, as plan::tile_ranges
// asks it.
#pragma once

#include "attention/variant.h"
#include "plan/update_params.h"

namespace tw {

template <typename Variant>
struct VariantMask {
  const ParamSlot* params;

  TW_DEVICE explicit VariantMask(const plan::PartInput& part) : params(part.params) {}

  TW_DEVICE static constexpr bool has_mask() { return Variant::kHasMask; }
  TW_DEVICE static constexpr bool one_interval() { return Variant::kOneInterval; }
  TW_DEVICE plan::MaskRanges ranges(const plan::QueryRange& queries) const {
    return Variant::ranges(queries, params);
  }
  TW_DEVICE plan::MaskInterval interval(const plan::QueryRange& queries) const {
    return Variant::interval(queries, params);
  }
};

}  // namespace tw
