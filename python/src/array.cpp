// SPDX-License-Identifier: Apache-2.0
#include "array.h"

#define NPY_NO_DEPRECATED_API NPY_1_7_API_VERSION
#include <fmt/format.h>
#include <nanobind/stl/string.h>
#include <numpy/arrayobject.h>
#include <tilewright/dlpack.h>
#include <tilewright/error.h>

#include <array>
#include <cmath>
#include <limits>
#include <string_view>
#include <utility>

#include "dlpack_codes.h"
#include "torch.h"

namespace tilewright::python {
namespace {

constexpr std::array<DType, 9> kDTypes{DType::f32,    DType::f16,    DType::bf16,
                                       DType::f8e4m3, DType::f8e5m2, DType::i8,
                                       DType::i32,    DType::i64,    DType::u8};

std::optional<DType> dtype_of_name(std::string_view name) {
  for (const DType dtype : kDTypes) {
    if (name == dtype_name(dtype)) return dtype;
  }
  return std::nullopt;
}

PyArrayObject* as_numpy(nb::handle object) {
  return (PyArrayObject*)object.ptr();
}

// Dtype objects are few and mostly singletons: the ones seen are remembered by address, at most 32.
DType numpy_dtype(PyArrayObject* array, const char* name) {
  static std::vector<std::pair<PyArray_Descr*, DType>> known;
  PyArray_Descr* descr = PyArray_DESCR(array);
  for (const auto& [seen, dtype] : known) {
    if (seen == descr) return dtype;
  }
  const auto text = nb::cast<std::string>(nb::handle((PyObject*)descr).attr("name"));
  const std::optional<DType> dtype = dtype_of_name(text);
  if (!dtype || !PyArray_ISNOTSWAPPED(array)) {
    raise_type_error(fmt::format(
        "{} has dtype {}: it must be float32, float16, bfloat16, float8_e4m3fn, float8_e5m2, int8, "
        "int32, int64 or uint8 in native byte order",
        name, nb::cast<std::string>(nb::str(nb::handle((PyObject*)descr)))));
  }
  if (known.size() < 32) {
    Py_INCREF(descr);
    known.emplace_back(descr, *dtype);
  }
  return *dtype;
}

// Exporters tell any strides for a tensor without elements.
TensorView with_strides_if_empty(TensorView view) {
  if (view.numel() > 0) return view;
  std::int64_t stride = 1;
  for (int dim = view.rank - 1; dim >= 0; --dim) {
    view.strides[dim] = stride;
    stride *= view.shape[dim];
  }
  return view;
}

void require_writable(bool writable, const char* name) {
  if (!writable)
    raise_invalid(fmt::format("{} is read-only: it is written, so it must not be", name));
}

void require_rank(std::int64_t rank, const char* name) {
  if (rank == 0) {
    raise_invalid(fmt::format("{} is a scalar: it must be an array of rank 1 or more", name));
  }
  if (rank > TensorView::kMaxRank) {
    raise_invalid(
        fmt::format("{} has rank {}: it must be at most {}", name, rank, TensorView::kMaxRank));
  }
}

TensorView view_of_numpy(PyArrayObject* array, const char* name, Access access) {
  TensorView view;
  view.dtype = numpy_dtype(array, name);
  require_rank(PyArray_NDIM(array), name);
  if (access == Access::write) require_writable(PyArray_ISWRITEABLE(array), name);
  if (!PyArray_ISALIGNED(array)) {
    raise_invalid(fmt::format("{} is not aligned in memory: copy it first", name));
  }
  view.rank = PyArray_NDIM(array);
  view.data = PyArray_DATA(array);
  const std::int64_t bytes = PyArray_ITEMSIZE(array);
  for (int dim = 0; dim < view.rank; ++dim) {
    view.shape[dim] = PyArray_DIM(array, dim);
    const std::int64_t stride = PyArray_STRIDE(array, dim);
    if (stride % bytes != 0 && view.shape[dim] > 1) {
      raise_invalid(
          fmt::format("{} has a stride of {} bytes: it must be a multiple of the {} of "
                      "an element",
                      name, stride, bytes));
    }
    view.strides[dim] = stride / bytes;
  }
  return with_strides_if_empty(view);
}

// The beginning of DLPack's DLManagedTensorVersioned, whose layout is fixed for all versions 1.x.
struct VersionedHead {
  std::uint32_t major;
  std::uint32_t minor;
  void* manager_context;
  void* deleter;
  std::uint64_t flags;
};
constexpr std::uint64_t kReadOnlyFlag = 1;

nb::object call_dlpack(nb::handle object) {
  const nb::object method = object.attr("__dlpack__");
  try {
    return method(nb::arg("max_version") = nb::make_tuple(1, 1));
  } catch (nb::python_error& error) {
    if (!error.matches(PyExc_TypeError)) throw;  // an exporter from before version 1.0
  }
  return method();
}

TensorView view_of_dlpack(nb::handle object, const char* name, Keep& keep, Access access) {
  // The capsule is not consumed: its destructor lets go of the tensor.
  nb::object capsule = call_dlpack(object);
  TensorView view;
  if (PyCapsule_IsValid(capsule.ptr(), "dltensor_versioned")) {
    const void* tensor = PyCapsule_GetPointer(capsule.ptr(), "dltensor_versioned");
    view = from_dlpack(static_cast<const DLManagedTensorVersioned*>(tensor));
    const auto* head = static_cast<const VersionedHead*>(tensor);
    if (access == Access::write) require_writable(!(head->flags & kReadOnlyFlag), name);
  } else if (PyCapsule_IsValid(capsule.ptr(), "dltensor")) {
    view = from_dlpack(
        static_cast<const DLManagedTensor*>(PyCapsule_GetPointer(capsule.ptr(), "dltensor")));
  } else {
    raise_type_error(fmt::format("{}.__dlpack__() gave {}: it must give a DLPack capsule", name,
                                 describe_type(capsule)));
  }
  require_rank(view.rank, name);
  keep.push_back(std::move(capsule));
  return with_strides_if_empty(view);
}

bool is_sequence(nb::handle object) {
  return PyList_Check(object.ptr()) || PyTuple_Check(object.ptr());
}

int numpy_type_number(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return NPY_FLOAT32;
    case DType::f16:
      return NPY_FLOAT16;
    case DType::i8:
      return NPY_INT8;
    case DType::i32:
      return NPY_INT32;
    case DType::i64:
      return NPY_INT64;
    case DType::u8:
      return NPY_UINT8;
    default:
      return NPY_NOTYPE;
  }
}

// A new reference. The narrow formats are those of ml_dtypes.
PyArray_Descr* numpy_descr(DType dtype) {
  const int type = numpy_type_number(dtype);
  if (type != NPY_NOTYPE) return PyArray_DescrFromType(type);
  static std::array<PyArray_Descr*, kDTypes.size()> narrow{};
  PyArray_Descr*& descr = narrow[static_cast<std::size_t>(dtype)];
  if (descr == nullptr) {
    nb::object scalar;
    try {
      scalar = nb::module_::import_("ml_dtypes").attr(dtype_name(dtype));
    } catch (nb::python_error&) {
      throw nb::import_error(
          fmt::format("a NumPy array of {} needs the package ml_dtypes", dtype_name(dtype))
              .c_str());
    }
    if (PyArray_DescrConverter(scalar.ptr(), &descr) != NPY_SUCCEED) throw nb::python_error();
  }
  Py_INCREF(descr);
  return descr;
}

// A list or tuple of numbers as an array; integers must be integers, and fit.
nb::object copy_sequence(nb::handle object, const char* name, DType dtype) {
  const nb::object array = nb::steal(PyArray_FROM_O(object.ptr()));
  if (!array.is_valid()) throw nb::python_error();
  const bool empty = PyArray_SIZE(as_numpy(array)) == 0;
  const char kind = PyArray_DESCR(as_numpy(array))->kind;
  const bool number = kind == 'i' || kind == 'u' || (kind == 'f' && dtype == DType::f32);
  if (!number && !empty) {
    raise_type_error(fmt::format("{} is {}: its items must be {}", name, describe_type(object),
                                 dtype == DType::f32 ? "numbers" : "integers"));
  }
  if (dtype == DType::i32 && !empty) {
    const auto least = nb::cast<double>(nb::float_(array.attr("min")()));
    const auto largest = nb::cast<double>(nb::float_(array.attr("max")()));
    if (least < std::numeric_limits<std::int32_t>::min() ||
        largest > std::numeric_limits<std::int32_t>::max()) {
      raise_invalid(
          fmt::format("{} has values from {} to {}: they must fit int32", name, least, largest));
    }
  }
  nb::object copy = nb::steal(PyArray_FromAny(array.ptr(), numpy_descr(dtype), 0, 0,
                                              NPY_ARRAY_CARRAY | NPY_ARRAY_FORCECAST, nullptr));
  if (!copy.is_valid()) throw nb::python_error();
  return copy;
}

nb::object empty_numpy(DType dtype, std::span<const std::int64_t> shape) {
  std::array<npy_intp, TensorView::kMaxRank> extents{};
  std::copy(shape.begin(), shape.end(), extents.begin());
  nb::object array = nb::steal(
      PyArray_Empty(static_cast<int>(shape.size()), extents.data(), numpy_descr(dtype), 0));
  if (!array.is_valid()) throw nb::python_error();
  return array;
}

// An array of the Python array API (https://data-apis.org/array-api) that is neither NumPy's nor
// torch's: JAX and others, where arrays are made by from_dlpack.
bool is_other_array(nb::handle object) {
  return !PyArray_Check(object.ptr()) && !is_torch_tensor(object) &&
         nb::hasattr(object, "__array_namespace__");
}

// An array of neither NumPy nor torch.
bool is_on_gpu(nb::handle object) {
  constexpr int kDlpackCuda = 2;
  return !PyArray_Check(object.ptr()) && nb::hasattr(object, "__dlpack_device__") &&
         nb::cast<int>(nb::int_(object.attr("__dlpack_device__")()[0])) == kDlpackCuda;
}

nb::object empty_cupy(nb::handle like, DType dtype, std::span<const std::int64_t> shape) {
  const auto module = nb::cast<std::string>(like.type().attr("__module__"));
  if (!module.starts_with("cupy")) {
    raise_type_error(fmt::format(
        "out is None: for results of arrays {} on a GPU it must be given, as a tensor of "
        "torch or CuPy",
        describe_type(like)));
  }
  const nb::object device = like.attr("device");
  nb::list extents;
  for (const std::int64_t extent : shape) extents.append(extent);
  device.attr("__enter__")();
  nb::object array = nb::module_::import_("cupy").attr("empty")(
      nb::tuple(extents), nb::arg("dtype") = dtype_name(dtype));
  device.attr("__exit__")(nb::none(), nb::none(), nb::none());
  return array;
}

// At an address from which JAX takes an array without a copy.
nb::object empty_aligned(DType dtype, std::span<const std::int64_t> shape) {
  constexpr std::int64_t kAlignment = 64;
  std::array<npy_intp, TensorView::kMaxRank> extents{};
  std::copy(shape.begin(), shape.end(), extents.begin());
  std::int64_t bytes = dtype_bytes(dtype);
  for (const std::int64_t extent : shape) bytes *= extent;
  nb::object memory = empty_numpy(DType::u8, std::array{bytes + kAlignment});
  auto* data = static_cast<std::byte*>(PyArray_DATA(as_numpy(memory)));
  data += -reinterpret_cast<std::uintptr_t>(data) % kAlignment;
  nb::object array = nb::steal(PyArray_NewFromDescr(&PyArray_Type, numpy_descr(dtype),
                                                    static_cast<int>(shape.size()), extents.data(),
                                                    nullptr, data, NPY_ARRAY_CARRAY, nullptr));
  if (!array.is_valid()) throw nb::python_error();
  if (PyArray_SetBaseObject(as_numpy(array), memory.release().ptr()) != 0) throw nb::python_error();
  return array;
}

// An object with __dlpack__ that shares the memory of a contiguous array; NumPy itself does not
// export the dtypes of ml_dtypes.
nb::object dlpack_exporter(nb::handle array) {
  const TensorView view = view_of_numpy(as_numpy(array), "out", Access::write);
  std::array<std::size_t, TensorView::kMaxRank> shape{};
  std::copy(view.shape.begin(), view.shape.end(), shape.begin());
  const nb::ndarray<nb::array_api> exported(view.data, static_cast<std::size_t>(view.rank),
                                            shape.data(), array, nullptr, dlpack_dtype(view.dtype),
                                            nb::device::cpu::value);
  return nb::cast(exported);
}

}  // namespace

void import_numpy() {
  if (_import_array() < 0) throw nb::python_error();
}

TensorView view_of(nb::handle object, const char* name, Keep& keep, Access access) {
  if (object.is_none()) return {};
  if (PyArray_Check(object.ptr())) return view_of_numpy(as_numpy(object), name, access);
  if (is_torch_tensor(object)) {
    const TensorView view = view_of_torch(object, name);
    require_rank(view.rank, name);
    return with_strides_if_empty(view);
  }
  if (nb::hasattr(object, "__dlpack__")) return view_of_dlpack(object, name, keep, access);
  if (nb::hasattr(object, "__array_interface__") ||
      (PyObject_CheckBuffer(object.ptr()) && !PyBytes_Check(object.ptr()))) {
    nb::object array = nb::steal(PyArray_FROM_O(object.ptr()));
    if (!array.is_valid()) throw nb::python_error();
    keep.push_back(array);
    return view_of_numpy(as_numpy(array), name, access);
  }
  raise_type_error(
      fmt::format("{} is {}: it must be an array (NumPy, torch, or anything with DLPack or the "
                  "array interface)",
                  name, describe_type(object)));
}

TensorView required(nb::handle object, const char* name, Keep& keep, Access access) {
  if (object.is_none()) raise_type_error(fmt::format("{} is None: it must be an array", name));
  return view_of(object, name, keep, access);
}

TensorView list_or_view_of(nb::handle object, const char* name, DType dtype, Keep& keep) {
  if (!is_sequence(object)) return view_of(object, name, keep);
  keep.push_back(copy_sequence(object, name, dtype));
  return view_of_numpy(as_numpy(keep.back()), name, Access::read);
}

TensorView kept_view_of(nb::handle object, const char* name, DType dtype, Keep& keep) {
  const TensorView view = list_or_view_of(object, name, dtype, keep);
  if (view.defined() && view.dtype != dtype) {
    raise_type_error(
        fmt::format("{} is {}: its dtype must be {}; it is read in place, so convert "
                    "it once where it is made",
                    name, view.describe(), dtype_name(dtype)));
  }
  if (view.defined() && !is_sequence(object)) keep.push_back(nb::borrow(object));
  return view;
}

nb::object host_array(nb::handle object, const char* name) {
  Keep keep;
  const TensorView view = view_of(object, name, keep);
  if (view.device.type != DeviceType::cpu) {
    raise_invalid(fmt::format("{} is {}: it must be in host memory", name, view.describe()));
  }
  if (view.numel() == 0) return empty_numpy(view.dtype, std::span(view.shape).first(view.rank));
  std::array<npy_intp, TensorView::kMaxRank> extents{};
  std::array<npy_intp, TensorView::kMaxRank> strides{};
  for (int dim = 0; dim < view.rank; ++dim) {
    extents[dim] = view.shape[dim];
    strides[dim] = view.strides[dim] * dtype_bytes(view.dtype);
  }
  nb::object array = nb::steal(PyArray_NewFromDescr(&PyArray_Type, numpy_descr(view.dtype),
                                                    view.rank, extents.data(), strides.data(),
                                                    view.data, NPY_ARRAY_ALIGNED, nullptr));
  if (!array.is_valid()) throw nb::python_error();
  nb::list owners;
  owners.append(object);
  for (const nb::object& owner : keep) owners.append(owner);
  if (PyArray_SetBaseObject(as_numpy(array), owners.release().ptr()) != 0) throw nb::python_error();
  return array;
}

Output::Output(nb::object given, nb::handle like, DType dtype, std::span<const std::int64_t> shape)
    : array_(std::move(given)), is_new_(array_.is_none()) {
  if (!is_new_) return;
  if (is_torch_tensor(like)) {
    array_ = empty_torch(like, dtype, shape);
    return;
  }
  if (is_on_gpu(like)) {
    array_ = empty_cupy(like, dtype, shape);
    return;
  }
  if (is_other_array(like)) other_ = like;
  array_ = other_.is_valid() ? empty_aligned(dtype, shape) : empty_numpy(dtype, shape);
}

nb::object Output::result() {
  if (!other_.is_valid()) return std::move(array_);
  return other_.attr("__array_namespace__")().attr("from_dlpack")(dlpack_exporter(array_));
}

std::optional<double> number_of(nb::handle object) {
  const bool number = PyFloat_Check(object.ptr()) || PyLong_Check(object.ptr()) ||
                      PyArray_CheckScalar(object.ptr()) ||
                      (is_torch_tensor(object) && nb::cast<int>(object.attr("ndim")) == 0);
  if (!number) return std::nullopt;
  const double value = PyFloat_AsDouble(object.ptr());
  if (value == -1.0 && PyErr_Occurred()) throw nb::python_error();
  return value;
}

Scale to_scale(nb::handle object, const char* name, Keep& keep) {
  if (object.is_none()) return {};
  if (const std::optional<double> number = number_of(object)) return static_cast<float>(*number);
  return view_of(object, name, keep);
}

nb::object without_bool(nb::handle object) {
  if (PyArray_Check(object.ptr())) {
    if (PyArray_DESCR(as_numpy(object))->type_num != NPY_BOOL) return nb::borrow(object);
    return object.attr("view")("uint8");
  }
  if (is_torch_tensor(object)) {
    const nb::module_ torch = nb::module_::import_("torch");
    if (object.attr("dtype").is(torch.attr("bool"))) {
      return object.attr("view")(torch.attr("uint8"));
    }
  }
  return nb::borrow(object);
}

std::vector<ParamValue> to_params(nb::handle params, const char* name, Keep& keep) {
  std::vector<ParamValue> values;
  if (params.is_none()) return values;
  if (!PyDict_Check(params.ptr())) {
    raise_type_error(fmt::format("{} is {}: it must be a dict of parameter names and values", name,
                                 describe_type(params)));
  }
  for (const auto [key, value] : nb::borrow<nb::dict>(params)) {
    if (!PyUnicode_Check(key.ptr())) {
      raise_type_error(fmt::format("{} has a key that is {}: it must be a parameter's name", name,
                                   describe_type(key)));
    }
    auto parameter = nb::cast<std::string>(key);
    if (const std::optional<double> number = number_of(value)) {
      values.emplace_back(std::move(parameter), *number);
    } else {
      const std::string text = fmt::format("{}[\"{}\"]", name, parameter);
      nb::object array = without_bool(value);
      values.emplace_back(std::move(parameter), view_of(array, text.c_str(), keep));
      if (!array.is(value)) keep.push_back(std::move(array));
    }
  }
  return values;
}

DType to_dtype(nb::handle object, const char* name) {
  static constexpr std::array<std::pair<std::string_view, DType>, 5> kShort{
      {{"f32", DType::f32},
       {"f16", DType::f16},
       {"bf16", DType::bf16},
       {"fp8_e4m3", DType::f8e4m3},
       {"fp8_e5m2", DType::f8e5m2}}};
  std::string text;
  if (PyUnicode_Check(object.ptr())) {
    text = nb::cast<std::string>(object);
  } else if (PyArray_DescrCheck(object.ptr())) {
    text = nb::cast<std::string>(object.attr("name"));
  } else if (PyType_Check(object.ptr())) {
    text = nb::cast<std::string>(object.attr("__name__"));
  } else {
    text = nb::cast<std::string>(nb::str(object));
    if (text.starts_with("torch.")) text = text.substr(6);
  }
  if (const std::optional<DType> dtype = dtype_of_name(text)) return *dtype;
  for (const auto& [alias, dtype] : kShort) {
    if (alias == text) return dtype;
  }
  raise_type_error(
      fmt::format("{} is {}: it must be float32, float16, bfloat16, float8_e4m3fn, "
                  "float8_e5m2, int8, int32, int64 or uint8",
                  name, text));
}

Device to_device(nb::handle object) {
  const auto text = nb::cast<std::string>(nb::str(object));
  if (text == "cpu") return {};
  if (text == "cuda") return {DeviceType::cuda, 0};
  if (text.starts_with("cuda:") && text.size() > 5 && text.size() < 10 &&
      text.find_first_not_of("0123456789", 5) == std::string::npos) {
    return {DeviceType::cuda, std::stoi(text.substr(5))};
  }
  raise_invalid(fmt::format("device is \"{}\": it must be \"cpu\", \"cuda\" or \"cuda:N\"", text));
}

Stream to_stream(nb::handle stream, Device device) {
  if (stream.is_none()) {
    return device.type == DeviceType::cuda ? current_torch_stream(device.index) : Stream{};
  }
  nb::object handle = nb::borrow(stream);
  if (nb::hasattr(stream, "cuda_stream")) {  // torch
    handle = stream.attr("cuda_stream");
  } else if (nb::hasattr(stream, "__cuda_stream__")) {  // (version of the protocol, handle)
    handle = stream.attr("__cuda_stream__")()[1];
  } else if (nb::hasattr(stream, "ptr")) {  // CuPy
    handle = stream.attr("ptr");
  }
  if (!PyLong_Check(handle.ptr())) {
    raise_type_error(fmt::format(
        "stream is {}: it must be an integer handle, or a stream of torch, CuPy or CUDA Python",
        describe_type(stream)));
  }
  void* value = PyLong_AsVoidPtr(handle.ptr());
  if (value == nullptr && PyErr_Occurred()) throw nb::python_error();
  return {value};
}

void raise_type_error(const std::string& message) {
  throw nb::type_error(message.c_str());
}

void raise_invalid(const std::string& message) {
  throw Error(ErrorCode::invalid_argument, message);
}

std::string describe_type(nb::handle object) {
  if (object.is_none()) return "None";
  return fmt::format("of type {}", nb::cast<std::string>(nb::str(object.type().attr("__name__"))));
}

}  // namespace tilewright::python
