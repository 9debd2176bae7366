// SPDX-License-Identifier: Apache-2.0
// One attention's plan for one batch, as the CPU kernels read it. All memory is the plan's
// workspace or the caller's.
#pragma once

#include "cpu/tile_bf16.h"
#include "plan/view.h"
#include "variant/bindings.h"

namespace tilewright::cpu {

using plan::BlockLists;
using plan::kMaxLevels;
using plan::LevelPages;

struct AttentionPlan : plan::View {
  const Bf16Kernels* bf16 = nullptr;  // what computes bf16; null: the portable kernels
  Bindings bindings;                  // parameters bound at plan
};

}  // namespace tilewright::cpu
