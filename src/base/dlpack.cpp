// SPDX-License-Identifier: Apache-2.0
#include <tilewright/dlpack.h>

#include <algorithm>
#include <array>
#include <memory>

#include "base/checks.h"
#include "base/dlpack_abi.h"

namespace tilewright {
namespace {

struct DTypeCode {
  DType dtype;
  DLDataTypeCode code;
};

constexpr std::array<DTypeCode, 9> kDTypeCodes = {{
    {DType::f32, kDLFloat},
    {DType::f16, kDLFloat},
    {DType::bf16, kDLBfloat},
    {DType::f8e4m3, kDLFloat8_e4m3fn},
    {DType::f8e5m2, kDLFloat8_e5m2},
    {DType::i8, kDLInt},
    {DType::i32, kDLInt},
    {DType::i64, kDLInt},
    {DType::u8, kDLUInt},
}};

DType import_dtype(DLDataType type) {
  for (const DTypeCode& entry : kDTypeCodes) {
    if (type.code == entry.code && type.bits == 8 * dtype_bytes(entry.dtype) && type.lanes == 1) {
      return entry.dtype;
    }
  }
  raise(ErrorCode::invalid_argument,
        "the DLPack tensor's dtype has code {}, {} bits and {} lanes: it must be float32, float16, "
        "bfloat16, float8_e4m3fn, float8_e5m2, int8, int32, int64 or uint8",
        type.code, type.bits, type.lanes);
}

Device import_device(DLDevice device) {
  switch (device.device_type) {
    case kDLCPU:
    case kDLCUDAHost:
      return {DeviceType::cpu, 0};
    case kDLCUDA:
      return {DeviceType::cuda, device.device_id};
  }
  raise(ErrorCode::invalid_argument,
        "the DLPack tensor's device type is {}: it must be 1 (CPU), 2 (CUDA) or 3 (pinned memory)",
        static_cast<std::int32_t>(device.device_type));
}

// No product of extents may overflow, in whatever order it is computed, nor the address of any
// element.
bool is_addressable(const TensorView& view, std::uint64_t byte_offset) {
  std::int64_t bytes = dtype_bytes(view.dtype);
  for (int dim = 0; dim < view.rank; ++dim) {
    if (__builtin_mul_overflow(bytes, std::max<std::int64_t>(view.shape[dim], 1), &bytes)) {
      return false;
    }
  }
  if (view.numel() == 0) return true;
  std::int64_t first = 0;
  if (__builtin_add_overflow(reinterpret_cast<std::uintptr_t>(view.data), byte_offset, &first)) {
    return false;
  }
  std::int64_t last = first;
  for (int dim = 0; dim < view.rank; ++dim) {
    std::int64_t reach = 0;
    if (__builtin_mul_overflow(view.strides[dim], dtype_bytes(view.dtype), &reach) ||
        __builtin_mul_overflow(reach, view.shape[dim] - 1, &reach)) {
      return false;
    }
    std::int64_t& end = reach < 0 ? first : last;
    if (__builtin_add_overflow(end, reach, &end)) return false;
  }
  return first >= 0 && !__builtin_add_overflow(last, dtype_bytes(view.dtype), &last);
}

void set_shape(const DLTensor& tensor, TensorView& view) {
  bool empty = false;
  for (int dim = 0; dim < view.rank; ++dim) {
    require(tensor.shape[dim] >= 0, "the DLPack tensor's extent {} is {}: it must not be negative",
            dim, tensor.shape[dim]);
    view.shape[dim] = tensor.shape[dim];
    empty = empty || tensor.shape[dim] == 0;
  }
  // Exporters tell any stride where none is ever taken.
  std::uint64_t row_major = 1;
  for (int dim = view.rank - 1; dim >= 0; --dim) {
    const bool given = tensor.strides != nullptr && view.shape[dim] > 1 && !empty;
    view.strides[dim] = given ? tensor.strides[dim] : static_cast<std::int64_t>(row_major);
    row_major *= static_cast<std::uint64_t>(view.shape[dim]);  // may wrap: is_addressable() tells
  }
}

TensorView import_tensor(const DLTensor& tensor) {
  require(tensor.ndim >= 1 && tensor.ndim <= TensorView::kMaxRank,
          "the DLPack tensor's rank is {}: it must be in [1, {}]", tensor.ndim,
          TensorView::kMaxRank);
  require(tensor.shape != nullptr, "the DLPack tensor's shape is a null pointer");
  TensorView view;
  view.dtype = import_dtype(tensor.dtype);
  view.device = import_device(tensor.device);
  view.rank = tensor.ndim;
  view.data = tensor.data;
  set_shape(tensor, view);
  require(is_addressable(view, tensor.byte_offset),
          "the DLPack tensor is {} at byte offset {}: that is more than memory can hold", view,
          tensor.byte_offset);
  if (view.numel() == 0) return view;
  require(view.data != nullptr, "the DLPack tensor is {} with a null pointer", view);
  view.data = static_cast<std::byte*>(view.data) + tensor.byte_offset;
  require(reinterpret_cast<std::uintptr_t>(view.data) %
                  static_cast<std::uintptr_t>(dtype_bytes(view.dtype)) ==
              0,
          "the DLPack tensor is {} at an address that is no multiple of its {} bytes an element",
          view, dtype_bytes(view.dtype));
  return view;
}

// What an exported tensor owns.
template <typename Managed>
struct Export {
  Managed managed{};
  std::array<std::int64_t, TensorView::kMaxRank> shape{};
  std::array<std::int64_t, TensorView::kMaxRank> strides{};
  void (*release)(void*) = nullptr;
  void* context = nullptr;

  static void run_deleter(Managed* managed) {
    auto* self = static_cast<Export*>(managed->manager_ctx);
    if (self->release != nullptr) self->release(self->context);
    delete self;
  }
};

template <typename Managed>
Managed* export_tensor(const TensorView& view, void (*release)(void*), void* context) {
  require_defined("view", view);
  auto owner = std::make_unique<Export<Managed>>();
  owner->shape = view.shape;
  owner->strides = view.strides;
  owner->release = release;
  owner->context = context;
  DLTensor& tensor = owner->managed.dl_tensor;
  tensor.data = view.data;
  tensor.device = view.device.type == DeviceType::cpu ? DLDevice{kDLCPU, 0}
                                                      : DLDevice{kDLCUDA, view.device.index};
  tensor.ndim = view.rank;
  for (const DTypeCode& entry : kDTypeCodes) {
    if (entry.dtype == view.dtype) {
      tensor.dtype = {entry.code, static_cast<std::uint8_t>(8 * dtype_bytes(view.dtype)), 1};
    }
  }
  tensor.shape = owner->shape.data();
  tensor.strides = owner->strides.data();
  owner->managed.manager_ctx = owner.get();
  owner->managed.deleter = &Export<Managed>::run_deleter;
  return &owner.release()->managed;
}

}  // namespace

TensorView from_dlpack(const DLManagedTensor* tensor) {
  require(tensor != nullptr, "the DLPack tensor is a null pointer");
  return import_tensor(tensor->dl_tensor);
}

TensorView from_dlpack(const DLManagedTensorVersioned* tensor) {
  require(tensor != nullptr, "the DLPack tensor is a null pointer");
  // Only the version's place is fixed over major versions.
  require(tensor->version.major == 1, "the DLPack tensor's version is {}.{}: it must be 1.x",
          tensor->version.major, tensor->version.minor);
  return import_tensor(tensor->dl_tensor);
}

DLManagedTensor* to_dlpack(const TensorView& view, void (*release)(void*), void* context) {
  return export_tensor<DLManagedTensor>(view, release, context);
}

DLManagedTensorVersioned* to_dlpack_versioned(const TensorView& view, void (*release)(void*),
                                              void* context, bool read_only) {
  auto* managed = export_tensor<DLManagedTensorVersioned>(view, release, context);
  managed->version = {1, 1};
  managed->flags = read_only ? kDLPackFlagReadOnly : 0;
  return managed;
}

}  // namespace tilewright
