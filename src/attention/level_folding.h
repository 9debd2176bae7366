// SPDX-License-Identifier: Apache-2.0
// Which rows of outer levels are worth being computed once for all their query tokens, and which
// join the rows below them.
#pragma once

#include "cpu/attention_plan.h"

namespace tilewright {

// A row whose query tokens are also covered by rows of inner levels, with the keys right behind its
// own, may be folded into those: its keys come before theirs in one pass, so it needs no partial
// results of its own, but is read once for each of them. Done where that costs less by the
// schedule's cost model; in a batch-invariant plan wherever it can be, for a join's bits tell who
// shared. Returns how many rows were folded, and says in the plan whether some query token is left
// with more or less than one row.
std::int32_t fold_levels(cpu::AttentionPlan& plan);

}  // namespace tilewright
