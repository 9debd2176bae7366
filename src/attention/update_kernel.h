// SPDX-License-Identifier: Apache-2.0
// The text of the kernels of plans on the device: the one that makes them (kernels/plan/update.h),
// for the masks of a plan's attentions, and the one that tells of them.
#pragma once

#include <tilewright/variant.h>

#include <string>
#include <vector>

namespace tilewright {

inline constexpr const char* kUpdateKernelName = "tilewright_update_plan";
// Beside it in the same text: copies status words, see kernels/plan/copy_status.h.
inline constexpr const char* kCopyStatusName = "tilewright_copy_status";

// A variant of nothing but the mask: variants that differ in other things share it.
Variant mask_of(const Variant& variant);

// The mask's place in a list of different ones, at the end of which it is put if it is new.
std::int32_t add_mask(std::vector<Variant>& masks, const Variant& variant);

// A source file that defines kUpdateKernelName over UpdateParams<parts>, and kCopyStatusName.
// PartInput::mask is an index of `masks`. `lists_blocks`: attentions may have block structures.
std::string update_kernel_text(const std::vector<Variant>& masks, std::size_t parts,
                               bool lists_blocks = false);

}  // namespace tilewright
