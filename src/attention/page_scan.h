// SPDX-License-Identifier: Apache-2.0
// The check of page ids: batches have tens of thousands of them, read at every update.
#pragma once

#include <cstdint>

namespace tilewright {

// The largest of `count` ids read as unsigned numbers: 2^31 or more when one is negative; 0 for
// none.
std::uint32_t largest_id(const std::int32_t* ids, std::int64_t count);

}  // namespace tilewright
