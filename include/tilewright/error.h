// SPDX-License-Identifier: Apache-2.0
// The one exception type of the library.
#pragma once

#include <tilewright/export.h>

#include <stdexcept>
#include <string>

namespace tilewright {

enum class ErrorCode {
  invalid_argument,  // an argument is malformed: rank, dtype, stride, value
  limit_exceeded,    // a batch does not fit the limits of its plan
  not_supported,     // a valid request that no kernel of this device answers
  invalid_state,     // called in the wrong order: run before update, an attention the plan was not
                     // made for
  out_of_memory,
  device_error,   // the device or its driver failed; the message has the driver's own words
  compile_error,  // a kernel did not compile, or not to what it must be
  internal,       // a defect of the library
};

// Every message names the argument, what it is and what it must be.
class TILEWRIGHT_API Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& message) : std::runtime_error(message), code_(code) {}

  ErrorCode code() const noexcept { return code_; }

 private:
  ErrorCode code_;
};

}  // namespace tilewright
