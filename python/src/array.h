// SPDX-License-Identifier: Apache-2.0
// Python's arrays as TensorViews, and new arrays of the caller's kind. Takes NumPy arrays (also of
// ml_dtypes, which have no DLPack), torch tensors, and anything with DLPack, the array interface or
// the buffer protocol.
#pragma once

#include <nanobind/nanobind.h>
#include <tilewright/attention.h>
#include <tilewright/sampling.h>
#include <tilewright/tensor_view.h>

#include <optional>
#include <span>
#include <string>
#include <vector>

namespace tilewright::python {

namespace nb = nanobind;

// Objects that own the memory of views, where the caller's argument alone does not: DLPack capsules
// and converted lists.
using Keep = std::vector<nb::object>;

enum class Access : std::uint8_t { read, write };

// Loads NumPy's C API; once, when the module is imported.
void import_numpy();

// The view of an array; None gives an undefined view. Views of NumPy and torch point into `object`,
// which must live as long. Errors: TypeError for what is no array or has a dtype the library does
// not have, invalid_argument for a scalar, a rank above TensorView::kMaxRank, misaligned memory, or
// a read-only array that is to be written.
TensorView view_of(nb::handle object, const char* name, Keep& keep, Access access = Access::read);
// The same where None is a TypeError.
TensorView required(nb::handle object, const char* name, Keep& keep, Access access = Access::read);

// As view_of, and `keep` owns all there is to own. Lists and tuples of numbers are copied into
// `dtype`; an array must have it: TypeError.
TensorView kept_view_of(nb::handle object, const char* name, DType dtype, Keep& keep);
// The same for an argument of a call, where the dtype is the library's to check.
TensorView list_or_view_of(nb::handle object, const char* name, DType dtype, Keep& keep);

// A read-only NumPy array over an array in host memory, which it keeps.
nb::object host_array(nb::handle object, const char* name);

// An output: the caller's array, or a new one of the kind of another argument, `like`.
class Output {
 public:
  // `given` is None for a new, uninitialised array.
  Output(nb::object given, nb::handle like, DType dtype, std::span<const std::int64_t> shape);

  bool is_new() const { return is_new_; }
  // What is written, as view_of has it.
  TensorView view(const char* name, Keep& keep) const {
    return view_of(array_, name, keep, Access::write);
  }
  // Once, when all is written (on a GPU: asked for). Arrays of JAX and others of the array API
  // cannot be written: theirs are made here, by DLPack, without a copy where that library makes
  // none.
  nb::object result();

 private:
  nb::object array_;
  nb::handle other_;  // `like`, if the result is made of array_ by its library
  bool is_new_;
};

// A Python number, a NumPy scalar or an array of rank 0.
std::optional<double> number_of(nb::handle object);

Scale to_scale(nb::handle object, const char* name, Keep& keep);
// Arrays of bool as their bytes, 0 and 1; others as they are.
nb::object without_bool(nb::handle object);
std::vector<ParamValue> to_params(nb::handle params, const char* name, Keep& keep);

// The stream of a call on `device`: an integer handle (cudaStream_t), or a stream of torch, CuPy or
// anything with __cuda_stream__. None: torch's current one, or the default one where nobody has
// imported torch. Nothing on the CPU.
Stream to_stream(nb::handle stream, Device device);

// A dtype by its name ("bfloat16", "bf16"), or as NumPy, ml_dtypes or torch have it.
DType to_dtype(nb::handle object, const char* name);
// "cpu", "cuda", "cuda:1", or torch's device.
Device to_device(nb::handle object);

[[noreturn]] void raise_type_error(const std::string& message);
[[noreturn]] void raise_invalid(const std::string& message);
// "a list", "an object of type foo.Bar", for messages.
std::string describe_type(nb::handle object);

}  // namespace tilewright::python
