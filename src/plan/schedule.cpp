// SPDX-License-Identifier: Apache-2.0
// The scheduler's headers compile on their own, without anything of this project above src/plan.
#include "plan/schedule.h"
