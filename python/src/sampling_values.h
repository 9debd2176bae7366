// SPDX-License-Identifier: Apache-2.0
// Values of SamplingArgs from Python.
#pragma once

#include <tilewright/sampling.h>

#include <type_traits>

#include "bindings.h"

namespace tilewright::python {

// TypeError for what is no integer.
std::int64_t to_integer(nb::handle object, const char* name);

FilterOrder to_filter_order(nb::handle object);

template <typename T>
PerRow<T> to_per_row(nb::handle object, const char* name, DType dtype, Keep& keep) {
  const std::optional<double> number = number_of(object);
  if (!number) {
    const TensorView view = list_or_view_of(object, name, dtype, keep);
    if (!view.defined())
      raise_type_error(fmt::format("{} is None: it must be a number or an array", name));
    return view;
  }
  if constexpr (std::is_integral_v<T>) {
    const std::int64_t value = to_integer(object, name);
    if (value != static_cast<T>(value)) {
      raise_invalid(fmt::format("{} is {}: it must fit {}", name, value, dtype_name(dtype)));
    }
    return static_cast<T>(value);
  } else {
    return static_cast<T>(*number);
  }
}

}  // namespace tilewright::python
