// SPDX-License-Identifier: Apache-2.0
// The kernels of an attention and of its plan, compiled for the emulator from the text that a GPU
// would be given.
#pragma once

#include <vector>

#include "attention/params.h"
#include "plan/update_params.h"

namespace tilewright::test {

struct EmulatedKernels {
  const char* attention_text = nullptr;
  const char* plan_text = nullptr;
  void (*attention)(tw::AttentionParams) = nullptr;
  void (*hopper_attention)(tw::HopperParams) = nullptr;  // instead
  void (*join_levels)(tw::AttentionParams) = nullptr;
  void (*update_plan)(plan::UpdateParams<1>) = nullptr;
};

// Of compiled_cases(), in their order. Its source is generated.
std::vector<EmulatedKernels> all_emulated_kernels();

}  // namespace tilewright::test
