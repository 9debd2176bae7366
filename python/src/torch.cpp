// SPDX-License-Identifier: Apache-2.0
#include "torch.h"

#include <fmt/format.h>
#include <nanobind/stl/string.h>
#include <tilewright/error.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <optional>
#include <utility>

#include "array.h"
#include "dlpack_codes.h"

namespace tilewright::python {
namespace {

// The beginning of DLPack's exchange API (version 1.2; torch has it since 2.10): functions that a
// tensor's type offers to C, so that nothing of Python is called to read one.
struct ExchangeApi {
  std::uint32_t major, minor;
  const ExchangeApi* older;  // null: there is none
  void *allocate, *export_managed, *import_managed;
  // Borrows the tensor's shape and strides. An exception is set where the status is not 0.
  int (*borrow)(void* tensor, nb::dlpack::dltensor* borrowed);
};

// What is needed of torch, looked up once; never released, since the interpreter may be gone by
// then.
struct Torch {
  nb::handle tensor_type;
  const ExchangeApi* exchange;  // null in an older torch
  nb::handle empty;
  nb::handle current_stream;  // None in a torch without CUDA
  std::array<std::pair<nb::handle, DType>, 9> dtypes;
  nb::handle data_ptr, shape, stride, dtype, is_cpu, is_cuda, get_device,
      device;  // attribute names
};

const ExchangeApi* find_exchange_api(nb::handle tensor_type) {
  const nb::object capsule = nb::getattr(tensor_type, "__dlpack_c_exchange_api__", nb::none());
  if (!PyCapsule_IsValid(capsule.ptr(), "dlpack_exchange_api")) return nullptr;
  const void* pointer = PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api");
  const auto* api = static_cast<const ExchangeApi*>(pointer);
  while (api != nullptr && api->major > 1) api = api->older;
  return api;
}

Torch load_torch(nb::handle module) {
  Torch torch;
  torch.tensor_type = module.attr("Tensor").inc_ref();
  torch.exchange = find_exchange_api(torch.tensor_type);
  torch.empty = nb::object(module.attr("empty")).release();
  // What torch's own generated code asks; torch.cuda.current_stream() makes an object, for 1 us.
  const nb::object core = nb::getattr(module, "_C", nb::none());
  torch.current_stream =
      nb::object(nb::getattr(core, "_cuda_getCurrentRawStream", nb::none())).release();
  std::size_t i = 0;
  for (const DType dtype : {DType::bf16, DType::f32, DType::f16, DType::i32, DType::i64,
                            DType::f8e4m3, DType::f8e5m2, DType::u8, DType::i8}) {
    // Old versions of torch have no float8.
    torch.dtypes[i++] = {nb::object(nb::getattr(module, dtype_name(dtype), nb::none())).release(),
                         dtype};
  }
  torch.data_ptr = PyUnicode_InternFromString("data_ptr");
  torch.shape = PyUnicode_InternFromString("shape");
  torch.stride = PyUnicode_InternFromString("stride");
  torch.dtype = PyUnicode_InternFromString("dtype");
  torch.is_cpu = PyUnicode_InternFromString("is_cpu");
  torch.is_cuda = PyUnicode_InternFromString("is_cuda");
  torch.get_device = PyUnicode_InternFromString("get_device");
  torch.device = PyUnicode_InternFromString("device");
  return torch;
}

// Null until somebody has imported torch.
const Torch* loaded_torch() {
  static const Torch* torch = nullptr;
  if (torch == nullptr) {
    static PyObject* const name = PyUnicode_InternFromString("torch");
    const nb::object module = nb::steal(PyImport_GetModule(name));
    if (!module.is_valid()) {
      PyErr_Clear();
      return nullptr;
    }
    // Half imported, by the thread that is at it.
    if (!nb::hasattr(module, "Tensor") || !nb::hasattr(module, "empty")) return nullptr;
    torch = new Torch(load_torch(module));
  }
  return torch;
}

nb::object attribute(nb::handle object, nb::handle name) {
  PyObject* value = PyObject_GetAttr(object.ptr(), name.ptr());
  if (value == nullptr) throw nb::python_error();
  return nb::steal(value);
}

nb::object call_method(nb::handle object, nb::handle name) {
  PyObject* value = PyObject_CallMethodNoArgs(object.ptr(), name.ptr());
  if (value == nullptr) throw nb::python_error();
  return nb::steal(value);
}

std::int64_t to_int64(PyObject* object) {
  const std::int64_t value = PyLong_AsLongLong(object);
  if (value == -1 && PyErr_Occurred()) throw nb::python_error();
  return value;
}

DType torch_dtype(const Torch& torch, nb::handle tensor, const char* name) {
  const nb::object dtype = attribute(tensor, torch.dtype);
  for (const auto& [object, value] : torch.dtypes) {
    if (dtype.is(object)) return value;
  }
  raise_type_error(
      fmt::format("{} has dtype {}: it must be float32, float16, bfloat16, "
                  "float8_e4m3fn, float8_e5m2, int8, int32, int64 or uint8",
                  name, nb::cast<std::string>(nb::str(dtype))));
}

Device torch_device(const Torch& torch, nb::handle tensor, const char* name) {
  if (attribute(tensor, torch.is_cpu).is(Py_True)) return {};
  if (!attribute(tensor, torch.is_cuda).is(Py_True)) {
    throw Error(ErrorCode::not_supported,
                fmt::format("{} is on {}: tensors there are not supported by tilewright, they must "
                            "be on cpu or cuda",
                            name, nb::cast<std::string>(nb::str(attribute(tensor, torch.device)))));
  }
  return {DeviceType::cuda,
          static_cast<int>(to_int64(call_method(tensor, torch.get_device).ptr()))};
}

// None for a tensor that cannot be used; its attributes then tell why.
std::optional<TensorView> borrow(const ExchangeApi& api, nb::handle tensor) {
  nb::dlpack::dltensor borrowed;
  if (api.borrow(tensor.ptr(), &borrowed) != 0) {
    PyErr_Clear();
    return std::nullopt;
  }
  const std::optional<DType> dtype = dtype_of_dlpack(borrowed.dtype);
  const auto device = borrowed.device.device_type;
  const bool on_gpu = device == nb::device::cuda::value;
  const bool on_host = device == nb::device::cpu::value || device == nb::device::cuda_host::value;
  if (!dtype || !(on_gpu || on_host) || borrowed.ndim > TensorView::kMaxRank) return std::nullopt;
  TensorView view;
  view.dtype = *dtype;
  if (on_gpu) view.device = {DeviceType::cuda, borrowed.device.device_id};
  view.rank = borrowed.ndim;
  std::copy_n(borrowed.shape, borrowed.ndim, view.shape.begin());
  std::copy_n(borrowed.strides, borrowed.ndim, view.strides.begin());
  view.data = static_cast<std::byte*>(borrowed.data) + borrowed.byte_offset;
  return view;
}

}  // namespace

bool is_torch_tensor(nb::handle object) {
  const Torch* torch = loaded_torch();
  return torch != nullptr && PyObject_TypeCheck(object.ptr(), reinterpret_cast<PyTypeObject*>(
                                                                  torch->tensor_type.ptr()));
}

TensorView view_of_torch(nb::handle tensor, const char* name) {
  const Torch& torch = *loaded_torch();
  if (torch.exchange != nullptr) {
    if (const std::optional<TensorView> view = borrow(*torch.exchange, tensor)) return *view;
  }
  TensorView view;
  view.dtype = torch_dtype(torch, tensor, name);
  view.device = torch_device(torch, tensor, name);
  const nb::object shape = attribute(tensor, torch.shape);
  const nb::object strides = call_method(tensor, torch.stride);
  const Py_ssize_t rank = PyTuple_Size(shape.ptr());
  if (rank < 0 || PyTuple_Size(strides.ptr()) != rank) {
    PyErr_Clear();
    raise_type_error(fmt::format("{} is no dense tensor", name));
  }
  if (rank > TensorView::kMaxRank) {
    raise_invalid(
        fmt::format("{} has rank {}: it must be at most {}", name, rank, TensorView::kMaxRank));
  }
  view.rank = static_cast<int>(rank);
  for (int dim = 0; dim < view.rank; ++dim) {
    view.shape[dim] = to_int64(PyTuple_GET_ITEM(shape.ptr(), dim));
    view.strides[dim] = to_int64(PyTuple_GET_ITEM(strides.ptr(), dim));
  }
  view.data = PyLong_AsVoidPtr(call_method(tensor, torch.data_ptr).ptr());
  if (view.data == nullptr && PyErr_Occurred()) throw nb::python_error();
  return view;
}

nb::object empty_torch(nb::handle like, DType dtype, std::span<const std::int64_t> shape) {
  const Torch& torch = *loaded_torch();
  nb::handle type;
  for (const auto& [object, value] : torch.dtypes) {
    if (value == dtype) type = object;
  }
  if (type.is_none()) {
    raise_type_error(fmt::format("this version of torch has no dtype {}", dtype_name(dtype)));
  }
  nb::object extents = nb::steal(PyTuple_New(static_cast<Py_ssize_t>(shape.size())));
  for (std::size_t dim = 0; dim < shape.size(); ++dim) {
    PyTuple_SET_ITEM(extents.ptr(), static_cast<Py_ssize_t>(dim), PyLong_FromLongLong(shape[dim]));
  }
  return torch.empty(extents, nb::arg("dtype") = type,
                     nb::arg("device") = attribute(like, torch.device));
}

Stream current_torch_stream(int gpu) {
  const Torch* torch = loaded_torch();
  if (torch == nullptr || torch->current_stream.is_none()) return {};
  const nb::object index = nb::steal(PyLong_FromLong(gpu));
  const nb::object handle =
      nb::steal(PyObject_CallOneArg(torch->current_stream.ptr(), index.ptr()));
  if (!handle.is_valid()) throw nb::python_error();
  void* stream = PyLong_AsVoidPtr(handle.ptr());
  if (stream == nullptr && PyErr_Occurred()) throw nb::python_error();
  return {stream};
}

}  // namespace tilewright::python
