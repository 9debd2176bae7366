// SPDX-License-Identifier: Apache-2.0
#include "catalog/kernels_of.h"

#include <algorithm>

#include "attention/cuda_sources.h"
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

std::vector<jit::KernelSource> plan_kernels_of(const std::vector<AttentionSpec>& specs,
                                               bool block_structures) {
  std::vector<Variant> masks;
  for (const AttentionSpec& spec : specs) add_mask(masks, spec.variant);
  std::vector<jit::KernelSource> kernels = {plan_source(masks, specs.size())};
  if (block_structures) kernels.push_back(plan_source(masks, specs.size(), true));
  return kernels;
}

}  // namespace tilewright
