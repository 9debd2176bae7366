// SPDX-License-Identifier: Apache-2.0
#include "c_api/guard.h"

#include <tilewright/error.h>

#include <new>
#include <string>

namespace tilewright::c_api {
namespace {

// What tw_last_error() gives: `text`, or a literal where there was no memory for it.
struct LastError {
  std::string text;
  const char* shown = "";
};

LastError& last_error() {
  thread_local LastError error;
  return error;
}

tw_status note(tw_status status, const char* message) noexcept {
  LastError& last = last_error();
  try {
    last.text = message;
    last.shown = last.text.c_str();
  } catch (...) {
    last.shown = "out of memory, also for the message of an error";
  }
  return status;
}

tw_status status_of(ErrorCode code) {
  switch (code) {
    case ErrorCode::invalid_argument:
      return TW_INVALID_ARGUMENT;
    case ErrorCode::limit_exceeded:
      return TW_LIMIT_EXCEEDED;
    case ErrorCode::not_supported:
      return TW_NOT_SUPPORTED;
    case ErrorCode::invalid_state:
      return TW_INVALID_STATE;
    case ErrorCode::out_of_memory:
      return TW_OUT_OF_MEMORY;
    case ErrorCode::device_error:
      return TW_DEVICE_ERROR;
    case ErrorCode::compile_error:
      return TW_COMPILE_ERROR;
    case ErrorCode::internal:
      return TW_INTERNAL;
  }
  return TW_INTERNAL;
}

}  // namespace

tw_status note_exception() noexcept {
  try {
    throw;
  } catch (const Error& error) {
    return note(status_of(error.code()), error.what());
  } catch (const std::bad_alloc&) {
    return note(TW_OUT_OF_MEMORY, "out of memory");
  } catch (const std::exception& error) {
    return note(TW_INTERNAL, error.what());
  } catch (...) {
    return note(TW_INTERNAL, "an exception of an unknown type");
  }
}

}  // namespace tilewright::c_api

const char* tw_last_error() {
  return tilewright::c_api::last_error().shown;
}
