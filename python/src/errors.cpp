// SPDX-License-Identifier: Apache-2.0
// The C++ Error as tilewright.Error or tilewright.InvalidArgument (tilewright/_errors.py).
#include <tilewright/error.h>

#include "bindings.h"

namespace tilewright::python {
namespace {

const char* code_name(ErrorCode code) {
  switch (code) {
    case ErrorCode::invalid_argument:
      return "invalid_argument";
    case ErrorCode::limit_exceeded:
      return "limit_exceeded";
    case ErrorCode::not_supported:
      return "not_supported";
    case ErrorCode::invalid_state:
      return "invalid_state";
    case ErrorCode::out_of_memory:
      return "out_of_memory";
    case ErrorCode::device_error:
      return "device_error";
    case ErrorCode::compile_error:
      return "compile_error";
    case ErrorCode::internal:
      return "internal";
  }
  return "internal";
}

// Never released: the interpreter may be gone by then.
nb::handle error_class;
nb::handle invalid_argument_class;

void set_python_error(const Error& error) {
  const nb::handle type =
      error.code() == ErrorCode::invalid_argument ? invalid_argument_class : error_class;
  const nb::object instance = type(error.what());
  instance.attr("code") = code_name(error.code());
  PyErr_SetObject(type.ptr(), instance.ptr());
}

}  // namespace

void register_errors() {
  const nb::module_ errors = nb::module_::import_("tilewright._errors");
  error_class = nb::object(errors.attr("Error")).release();
  invalid_argument_class = nb::object(errors.attr("InvalidArgument")).release();
  nb::register_exception_translator([](const std::exception_ptr& pointer, void*) {
    try {
      std::rethrow_exception(pointer);
    } catch (const Error& raised) {
      set_python_error(raised);
    }
  });
}

}  // namespace tilewright::python
