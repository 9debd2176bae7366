// SPDX-License-Identifier: Apache-2.0
#include "catalog/kernels_of.h"

#include "attention/cuda_sources.h"
#include "attention/update_kernel.h"

namespace tilewright {

std::vector<jit::KernelSource> kernels_of(const AttentionSpec& spec, const std::string& arch) {
  const CudaTarget target = CudaTarget::of_arch(arch);
  if (!cuda_supports(spec, target)) return {};
  return {attention_source(spec, target, KernelUse::any_batch),
          attention_source(spec, target, KernelUse::decode_only),
          plan_source({mask_of(spec.variant)}, 1)};
}

}  // namespace tilewright
