// SPDX-License-Identifier: Apache-2.0
// Symbol visibility of the public functions.
#pragma once

#define TILEWRIGHT_API __attribute__((visibility("default")))
