// SPDX-License-Identifier: Apache-2.0
// The boundary that no exception crosses: every function of the C API is a guarded body.
#pragma once

#include <tilewright/c_base.h>

namespace tilewright::c_api {

// Notes the exception that is being handled for tw_last_error(), and gives its code.
tw_status note_exception() noexcept;

template <typename Body>
tw_status guarded(const Body& body) noexcept {
  try {
    body();
    return TW_OK;
  } catch (...) {
    return note_exception();
  }
}

}  // namespace tilewright::c_api
