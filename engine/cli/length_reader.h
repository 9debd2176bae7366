// SPDX-License-Identifier: Apache-2.0
// A batch of lengths from a short text, for --lens.
#pragma once

#include <tilewright/kernel_choice.h>

#include <string>
#include <vector>

namespace tilewright::engine::cli {

// "64x1:4096,2048:8192": 64 requests of one query token over 4096 keys each, then one of 2048 over
// 8192. "64x1:8192+256": over 8192 keys that they share and 256 of their own. Errors
// (invalid_argument) name `argument` and the part that is wrong.
std::vector<RequestLengths> read_lengths(const std::string& argument, const std::string& text);

}  // namespace tilewright::engine::cli
