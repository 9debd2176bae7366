// SPDX-License-Identifier: Apache-2.0
// A mask's analysis (variant/mask.h) as device code.
#pragma once

#include <tilewright/variant.h>

#include <string>
#include <vector>

namespace tilewright {

// The members kMaskClass, kOneInterval, ranges() and interval() of tw::Variant. The same results as
// MaskAnalysis on the host. Relations whose sums need 128 bits use plan::Wide.
std::string cuda_mask_ranges(const Variant& variant, const std::vector<Param>& params);

}  // namespace tilewright
