// SPDX-License-Identifier: Apache-2.0
// The sources of the attention kernels of a spec for a GPU.
#pragma once

#include <tilewright/attention.h>

#include <string>
#include <vector>

#include "attention/kernel_choice.h"
#include "jit/kernel_source.h"

namespace tilewright {

// Entries: kAttentionEntry and kJoinEntry.
inline constexpr std::size_t kAttentionEntry = 0;
inline constexpr std::size_t kJoinEntry = 1;
jit::KernelSource attention_source(const AttentionSpec& spec, CudaTarget target, KernelUse use);
jit::KernelSource attention_source(const AttentionSpec& spec, const CudaShape& shape);

// The kernel that makes plans of `parts` attentions with these masks (see mask_of).
// `lists_blocks`: they may have block structures.
jit::KernelSource plan_source(const std::vector<Variant>& masks, std::size_t parts,
                              bool lists_blocks = false);

}  // namespace tilewright
