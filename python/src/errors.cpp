// SPDX-License-Identifier: Apache-2.0
// tilewright.Error and tilewright.InvalidArgument, and the C++ exceptions they stand for.
#include <tilewright/error.h>

#include "bindings.h"

namespace tilewright::python {
namespace {

constexpr const char* kErrorDoc =
    "An error of the library. The message names the argument, what it is and what it must be.\n\n"
    "`code` says what kind it is: \"invalid_argument\", \"limit_exceeded\" (a batch over the "
    "limits "
    "of its plan),\n\"not_supported\" (a valid request that no kernel of this device answers), "
    "\"invalid_state\" (called in the\nwrong order), \"out_of_memory\" or \"internal\".";
constexpr const char* kInvalidArgumentDoc =
    "An argument is malformed: its rank, shape, dtype, stride, device or value.";

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
    case ErrorCode::internal:
      return "internal";
  }
  return "internal";
}

// Borrowed from the module, which is never unloaded.
nb::handle error_class;
nb::handle invalid_argument_class;

void set_python_error(const Error& error) {
  const nb::handle type =
      error.code() == ErrorCode::invalid_argument ? invalid_argument_class : error_class;
  const nb::object instance = type(error.what());
  instance.attr("code") = code_name(error.code());
  PyErr_SetObject(type.ptr(), instance.ptr());
}

nb::object new_class(const char* name, const char* doc, nb::handle bases) {
  nb::dict members;
  members["code"] = "";
  nb::object type = nb::steal(PyErr_NewExceptionWithDoc(name, doc, bases.ptr(), members.ptr()));
  if (!type.is_valid()) throw nb::python_error();
  return type;
}

}  // namespace

void bind_errors(nb::module_& m) {
  const nb::object error = new_class("tilewright.Error", kErrorDoc, PyExc_RuntimeError);
  const nb::object bases = nb::make_tuple(error, nb::handle(PyExc_ValueError));
  const nb::object invalid = new_class("tilewright.InvalidArgument", kInvalidArgumentDoc, bases);
  m.attr("Error") = error;
  m.attr("InvalidArgument") = invalid;
  error_class = error.inc_ref();
  invalid_argument_class = invalid.inc_ref();
  nb::register_exception_translator([](const std::exception_ptr& pointer, void*) {
    try {
      std::rethrow_exception(pointer);
    } catch (const Error& raised) {
      set_python_error(raised);
    }
  });
}

}  // namespace tilewright::python
