// SPDX-License-Identifier: Apache-2.0
#include "catalog/kernels_of.h"

namespace tilewright {

std::vector<jit::KernelSource> kernels_of(const AttentionSpec&) {
  return {};
}

}  // namespace tilewright
