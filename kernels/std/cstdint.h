// SPDX-License-Identifier: Apache-2.0
// <cstdint> for NVRTC, which has no standard headers: what the scheduler's headers, which the host
// compiles too, need of it. Sizes are the host's.
#pragma once

namespace std {

using int8_t = signed char;
using uint8_t = unsigned char;
using int16_t = short;
using uint16_t = unsigned short;
using int32_t = int;
using uint32_t = unsigned int;
using int64_t = long long;
using uint64_t = unsigned long long;
using intptr_t = long long;
using uintptr_t = unsigned long long;

}  // namespace std
