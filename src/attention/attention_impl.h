// SPDX-License-Identifier: Apache-2.0
// What an Attention holds: its spec, and its variant compiled for its device.
#pragma once

#include <tilewright/attention.h>

#include <memory>

#include "cpu/compiled_variant.h"

namespace tilewright {

class CudaKernels;

class AttentionImpl {
 public:
  AttentionImpl(const AttentionSpec& attention_spec, Device where);
  ~AttentionImpl();

  AttentionSpec spec;
  Device device;
  cpu::CompiledVariant variant;
  int soft_cap_param;                       // -1: the variant has none
  std::unique_ptr<const CudaKernels> cuda;  // null on the CPU
};

}  // namespace tilewright
