// SPDX-License-Identifier: Apache-2.0
#include "c_api/read.h"

#include <array>

namespace tilewright::c_api {

std::string Path::text() const {
  std::string text = owner_ != nullptr ? owner_->text() : std::string();
  if (name_ == nullptr) return text + "[" + std::to_string(index_) + "]";
  if (!text.empty()) text += ".";
  return text + name_;
}

void check_size(const Path& path, std::size_t size, std::size_t first, std::size_t known) {
  // How much later versions may add; a larger number is garbage, and its bytes nobody's.
  constexpr std::size_t kMostMore = 1024;
  require(size >= first && size <= known + kMostMore && size % alignof(void*) == 0,
          "{}.size is {}: it must be sizeof of the struct, {} in this version", path, size, known);
}

void check_tail(const Path& path, const void* data, std::size_t size, std::size_t known) {
  const auto* bytes = static_cast<const std::byte*>(data);
  for (std::size_t i = known; i < size; ++i) {
    require(bytes[i] == std::byte{0},
            "{}.size is {}: this version of the library knows {} bytes, and byte {} behind them is "
            "not zero",
            path, size, known, i);
  }
}

void check_count(const Path& path, std::size_t count) {
  require(count <= kMaxCount, "{} is {}: it must be at most {}", path, count, kMaxCount);
}

void check_index(const Path& path, std::size_t index, std::size_t count, const char* things) {
  require(index < count, "{} is {}: there are {} {}", path, index, count, things);
}

std::vector<std::string> read_strings(const Path& path, const char* const* texts,
                                      std::size_t count) {
  require(count <= kMaxCount, "{} has {} entries: at most {} are taken", path, count, kMaxCount);
  if (count > 0) required(path, texts);
  std::vector<std::string> list;
  for (std::size_t i = 0; i < count; ++i) list.emplace_back(&required({path, i}, texts[i]));
  return list;
}

void check_enum(const Path& path, std::int64_t value, std::int64_t last) {
  require(value >= 0 && value <= last, "{} is {}: it must be in [0, {}]", path, value, last);
}

bool read_flag(const Path& path, std::int32_t value) {
  require(value == 0 || value == 1, "{} is {}: it must be 0 or 1", path, value);
  return value == 1;
}

void check_reserved(const Path& path, std::int32_t value) {
  require(value == 0, "{} is {}: it must be 0", path, value);
}

DType read_dtype(const Path& path, tw_dtype dtype) {
  require(dtype >= TW_F32 && dtype <= TW_U8,
          "{} is {}: it must be one of TW_F32 ({}) to TW_U8 ({})", path, dtype,
          static_cast<int>(TW_F32), static_cast<int>(TW_U8));
  return static_cast<DType>(dtype - TW_F32);
}

tw_dtype c_dtype(DType dtype) {
  return static_cast<tw_dtype>(dtype) + TW_F32;
}

static_assert(static_cast<int>(DType::f32) + TW_F32 == TW_F32);
static_assert(static_cast<int>(DType::f8e5m2) + TW_F32 == TW_F8E5M2);
static_assert(static_cast<int>(DType::u8) + TW_F32 == TW_U8);

Device read_device(const Path& path, tw_device device) {
  require(device.type == TW_CPU || device.type == TW_CUDA,
          "{}.type is {}: it must be TW_CPU (0) or TW_CUDA (1)", path, device.type);
  require(device.index >= 0 && (device.type == TW_CUDA || device.index == 0),
          "{}.index is {}: it must be the number of a device, 0 on the CPU", path, device.index);
  return {device.type == TW_CPU ? DeviceType::cpu : DeviceType::cuda, device.index};
}

tw_device c_device(Device device) {
  return {device.type == DeviceType::cpu ? TW_CPU : TW_CUDA, device.index};
}

TensorView read_tensor(const Path& path, const tw_tensor& tensor) {
  static_assert(TW_MAX_RANK == TensorView::kMaxRank);
  if (tensor.rank == 0) return {};
  require(tensor.rank > 0 && tensor.rank <= TW_MAX_RANK, "{}.rank is {}: it must be in [0, {}]",
          path, tensor.rank, static_cast<int>(TW_MAX_RANK));
  TensorView view;
  view.data = tensor.data;
  view.rank = tensor.rank;
  view.dtype = read_dtype({path, "dtype"}, tensor.dtype);
  view.device = read_device({path, "device"}, tensor.device);
  std::int64_t bytes = dtype_bytes(view.dtype);
  bool fits = true;
  bool empty = false;
  for (int dim = 0; dim < view.rank; ++dim) {
    const std::int64_t extent = tensor.shape[dim];
    require(extent >= 0, "{}.shape[{}] is {}: it must not be negative", path, dim, extent);
    view.shape[dim] = extent;
    view.strides[dim] = tensor.strides[dim];
    // In any order: no product of extents may overflow.
    fits = fits && !__builtin_mul_overflow(bytes, std::max<std::int64_t>(extent, 1), &bytes);
    empty = empty || extent == 0;
  }
  require(fits, "{}.shape has more elements than memory has", path);
  if (empty) return view;
  // Nor may the distance of an element from the first one.
  for (int dim = 0; dim < view.rank && fits; ++dim) {
    std::int64_t reach = 0;
    fits = !__builtin_mul_overflow(view.strides[dim], view.shape[dim] - 1, &reach) &&
           reach <= INT64_MAX / 64 && reach >= -(INT64_MAX / 64);
  }
  require(fits, "{}.strides reach beyond what memory has", path);
  require(tensor.data != nullptr, "{}.data is NULL: a tensor of {} elements needs memory", path,
          view.numel());
  require(reinterpret_cast<std::uintptr_t>(tensor.data) %
                  static_cast<std::uintptr_t>(dtype_bytes(view.dtype)) ==
              0,
          "{}.data is {}: it must be a multiple of the {} bytes of an element", path,
          fmt::ptr(tensor.data), dtype_bytes(view.dtype));
  return view;
}

tw_tensor c_tensor(const TensorView& view) {
  tw_tensor tensor{};
  if (!view.defined()) return tensor;
  tensor.data = view.data;
  tensor.rank = view.rank;
  tensor.dtype = c_dtype(view.dtype);
  tensor.device = c_device(view.device);
  std::copy(view.shape.begin(), view.shape.end(), tensor.shape);
  std::copy(view.strides.begin(), view.strides.end(), tensor.strides);
  return tensor;
}

Scale read_scale(const Path& path, const tw_real* scale) {
  Scale result;
  if (scale == nullptr) return result;
  result.tensor = read_tensor({path, "tensor"}, scale->tensor);
  if (!result.tensor.defined()) result.value = scale->value;
  return result;
}

void read_param(const Path& path, const tw_param& param, ParamValue& value) {
  value.name = &required({path, "name"}, param.name);
  value.value = param.value;
  value.tensor = read_tensor({path, "tensor"}, param.tensor);
}

std::vector<ParamValue> read_params(const Path& path, const tw_param* params, std::size_t count) {
  std::vector<ParamValue> values;
  if (count == 0) return values;
  check_count("num_params", count);
  required(path, params);
  values.reserve(count);
  for (std::size_t i = 0; i < count; ++i) {
    values.emplace_back(std::string(), 0.0);
    read_param({path, i}, params[i], values.back());
  }
  return values;
}

}  // namespace tilewright::c_api
