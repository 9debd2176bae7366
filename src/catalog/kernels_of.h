// SPDX-License-Identifier: Apache-2.0
// Which kernels there are: what parts of the library may launch, said by themselves.
#pragma once

#include <tilewright/attention.h>
#include <tilewright/plan.h>

#include <string>
#include <vector>

#include "jit/kernel_source.h"

namespace tilewright {

// All kernels that attention of this spec may launch on an architecture ("sm_90a"), those of plans
// of this attention alone among them. Empty for a spec that it does not support. With
// `block_structures` also those of plans whose limits have them.
std::vector<jit::KernelSource> kernels_of(const AttentionSpec& spec, const std::string& arch,
                                          bool block_structures);

// Those alone that plans of these limits launch, of this attention alone.
std::vector<jit::KernelSource> kernels_of(const AttentionSpec& spec, const std::string& arch,
                                          const Limits& limits);

// The one that makes plans of these attentions together, in this order. `lists_blocks`: of limits
// with block structures.
jit::KernelSource plan_kernel_of(const std::vector<AttentionSpec>& specs, bool lists_blocks);
// Those of all limits; of limits with block structures only where these are asked for.
std::vector<jit::KernelSource> plan_kernels_of(const std::vector<AttentionSpec>& specs,
                                               bool block_structures);

// All kernels of the operators and of sampling on an architecture. Defined by src/ops.
std::vector<jit::KernelSource> kernels_of_ops(const std::string& arch);

}  // namespace tilewright
