// SPDX-License-Identifier: Apache-2.0
#include "catalog/kernels_of.h"

#include <algorithm>

#include "attention/cuda_sources.h"
#include "attention/plan_impl.h"
#include "attention/update_kernel.h"

namespace tilewright {

std::vector<jit::KernelSource> kernels_of(const AttentionSpec& spec, const std::string& arch,
                                          bool block_structures) {
  const CudaTarget target = CudaTarget::of_arch(arch);
  if (!cuda_supports(spec, target)) return {};
  std::vector<jit::KernelSource> kernels = {attention_source(spec, target, KernelUse::any_batch),
                                            attention_source(spec, target, KernelUse::decode_only)};
  if (block_structures && spec.variant.mask.defined()) {
    kernels.push_back(attention_source(spec, target, KernelUse::listed_blocks));
  }
  for (jit::KernelSource& kernel : plan_kernels_of({spec}, block_structures)) {
    kernels.push_back(std::move(kernel));
  }
  return kernels;
}

std::vector<jit::KernelSource> kernels_of(const AttentionSpec& spec, const std::string& arch,
                                          const Limits& limits) {
  require_limits(limits);
  const CudaTarget target = CudaTarget::of_arch(arch);
  if (!cuda_supports(spec, target)) return {};
  const PlanUses uses = plan_uses(spec, limits);
  std::vector<jit::KernelSource> kernels = {attention_source(spec, target, uses.requests)};
  if (uses.rows != uses.requests) kernels.push_back(attention_source(spec, target, uses.rows));
  kernels.push_back(plan_kernel_of({spec}, limits.block_structures));
  return kernels;
}

jit::KernelSource plan_kernel_of(const std::vector<AttentionSpec>& specs, bool lists_blocks) {
  std::vector<Variant> masks;
  for (const AttentionSpec& spec : specs) add_mask(masks, spec.variant);
  return plan_source(masks, specs.size(), lists_blocks);
}

std::vector<jit::KernelSource> plan_kernels_of(const std::vector<AttentionSpec>& specs,
                                               bool block_structures) {
  std::vector<jit::KernelSource> kernels = {plan_kernel_of(specs, false)};
  if (block_structures) kernels.push_back(plan_kernel_of(specs, true));
  return kernels;
}

}  // namespace tilewright
