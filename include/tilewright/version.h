// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <tilewright/export.h>

#define TILEWRIGHT_VERSION "0.1.0"

#ifdef __cplusplus  // C includes this header too: c_base.h

#include <string>

namespace tilewright {

TILEWRIGHT_API const char* version();  // of the library that is loaded
TILEWRIGHT_API std::string
cpu_features();  // the SIMD target chosen at run time: "AVX3_DL", "AVX2", ...

}  // namespace tilewright

#endif
