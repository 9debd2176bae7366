// SPDX-License-Identifier: Apache-2.0
// Which kernels there are: what parts of the library may launch, said by themselves.
#pragma once

#include <tilewright/attention.h>

#include <string>
#include <vector>

#include "jit/kernel_source.h"

namespace tilewright {

// All kernels that attention of this spec may launch on an architecture ("sm_90a"), those of plans
// of this attention alone among them. Empty for a spec that it does not support. With
// `block_structures` also those of plans whose limits have them.
std::vector<jit::KernelSource> kernels_of(const AttentionSpec& spec, const std::string& arch,
                                          bool block_structures);

// Those that make plans of these attentions together, in this order.
std::vector<jit::KernelSource> plan_kernels_of(const std::vector<AttentionSpec>& specs,
                                               bool block_structures);

// All kernels of the operators and of sampling. Defined by src/ops.
std::vector<jit::KernelSource> kernels_of_ops();

}  // namespace tilewright
