// SPDX-License-Identifier: Apache-2.0
// How many threads the CPU backend uses. Results never depend on it.
#pragma once

#include <tilewright/export.h>

namespace tilewright {

// At least 1. The default is the number of cores this process may run on. Threads are OpenMP's:
// they are shared with everything else in the process that uses the same OpenMP run time.
TILEWRIGHT_API void set_num_threads(int threads);
TILEWRIGHT_API int num_threads();

}  // namespace tilewright
