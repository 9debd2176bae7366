// SPDX-License-Identifier: Apache-2.0
// Variants as device code.
#pragma once

#include <tilewright/variant.h>

#include <string>

namespace tilewright {

// The text of a header that defines tw::Variant, as kernels/attention/variant.h describes it; equal
// texts for variants of equal meaning to a kernel. It includes nothing but headers of kernels/ and
// src/plan. `head_dim` is asked for by a rotary embedding of the whole head. Errors: those of
// Variant::validate, and of a rotary embedding that does not fit the head.
std::string cuda_variant(const Variant& variant, int head_dim = 0);

}  // namespace tilewright
