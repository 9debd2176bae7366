// SPDX-License-Identifier: Apache-2.0
// <cstddef> for NVRTC, which has no standard headers.
#pragma once

namespace std {

using size_t = decltype(sizeof(0));
using ptrdiff_t = long long;
using nullptr_t = decltype(nullptr);

}  // namespace std
