// SPDX-License-Identifier: Apache-2.0
// Checks a BlockStructure against a batch.
#pragma once

#include <tilewright/attention.h>
#include <tilewright/block_structure.h>

#include "cpu/attention_plan.h"

namespace tilewright {

// Sets plan.blocks from `structure`, which may be undefined; the plan's requests are known. Errors:
// invalid_argument for tensors or values that are malformed. Allocates nothing unless it raises.
void read_blocks(const BlockStructure& structure, const AttentionSpec& spec, Device device,
                 cpu::AttentionPlan& plan);

}  // namespace tilewright
