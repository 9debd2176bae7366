// SPDX-License-Identifier: Apache-2.0
// Checks a BlockStructure against a batch.
#pragma once

#include <tilewright/attention.h>
#include <tilewright/block_structure.h>

#include "cpu/attention_plan.h"

namespace tilewright {

// The lists of a structure, which may be undefined, as far as shapes, dtypes and devices tell.
// `requests`: that there may be. Errors: invalid_argument.
plan::BlockLists block_lists(const BlockStructure& structure, const AttentionSpec& spec,
                             Device device, std::int64_t requests);

// Sets plan.blocks from `structure`, whose data is read, too; the plan's requests are known.
// Errors: invalid_argument.
void read_blocks(const BlockStructure& structure, const AttentionSpec& spec, Device device,
                 cpu::AttentionPlan& plan);

}  // namespace tilewright
