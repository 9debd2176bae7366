// SPDX-License-Identifier: Apache-2.0
// Page tables as the C API has them.
#pragma once

#include <tilewright/c_kv_cache.h>
#include <tilewright/kv_cache.h>

#include "c_api/read.h"

namespace tilewright::c_api {

// With the checks of the functions that make tables, whoever filled it in.
PageTable read_page_table(const Path& path, const tw_page_table* table);

}  // namespace tilewright::c_api
