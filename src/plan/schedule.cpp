// SPDX-License-Identifier: Apache-2.0
// The headers that host and device share compile on their own, without anything of this project
// above src/plan.
#include "plan/schedule.h"

#include "plan/tile_ranges.h"
#include "plan/wide.h"
