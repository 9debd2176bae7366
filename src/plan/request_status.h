// SPDX-License-Identifier: Apache-2.0
// The bits of a request's status word, for host and device: tilewright::RequestStatus.
#pragma once

#include "plan/host_device.h"

namespace tilewright::plan {

inline constexpr std::uint32_t kBadQRange = 1;
inline constexpr std::uint32_t kBadKvLen = 2;
inline constexpr std::uint32_t kBadPage = 4;
inline constexpr std::uint32_t kBadPosition = 8;
inline constexpr std::uint32_t kBadLevelRows = 16;
inline constexpr std::uint32_t kBadNumRequests = 32;
inline constexpr std::uint32_t kBadBlocks = 64;

}  // namespace tilewright::plan
