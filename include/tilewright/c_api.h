/* SPDX-License-Identifier: Apache-2.0 */
/* All of the C API, in C99, for engines in other languages. It does what the C++ API does: shapes,
 * dtypes, units and errors are documented in the C++ header that each part names, and hold here
 * word for word. docs/c_api.md has the rules of this API and a program. */
#ifndef TILEWRIGHT_C_API_H
#define TILEWRIGHT_C_API_H

#include <tilewright/c_attention.h>
#include <tilewright/c_base.h>
#include <tilewright/c_jit.h>
#include <tilewright/c_kernel_choice.h>
#include <tilewright/c_kv_cache.h>
#include <tilewright/c_ops.h>
#include <tilewright/c_plan.h>
#include <tilewright/c_speculative.h>
#include <tilewright/c_variant.h>

#endif
