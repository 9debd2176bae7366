// SPDX-License-Identifier: Apache-2.0
// A view of somebody else's tensor: pointer, dtype, shape, strides, device. Nothing is owned.
#pragma once

#include <tilewright/export.h>

#include <array>
#include <cstdint>
#include <initializer_list>
#include <string>

namespace tilewright {

enum class DType : std::uint8_t { f32, f16, bf16, f8e4m3, f8e5m2, i8, i32, i64, u8 };

TILEWRIGHT_API int dtype_bytes(DType dtype);
TILEWRIGHT_API const char* dtype_name(DType dtype);

enum class DeviceType : std::uint8_t { cpu, cuda };

struct Device {
  DeviceType type = DeviceType::cpu;
  int index = 0;

  friend bool operator==(Device a, Device b) { return a.type == b.type && a.index == b.index; }
  friend bool operator!=(Device a, Device b) { return !(a == b); }
};

TILEWRIGHT_API std::string device_name(Device device);  // "cpu", "cuda:0"

// A queue of device work: a cudaStream_t / CUstream on CUDA; ignored on the CPU, where calls return
// when done.
struct Stream {
  void* handle = nullptr;
};

// Strides are in elements. Rank 0 means "no tensor": scalars are passed as numbers or as rank 1. A
// tensor with no elements may have a null pointer. Whether a function reads or writes through a
// view is said by the function.
struct TILEWRIGHT_API TensorView {
  static constexpr int kMaxRank = 6;

  void* data = nullptr;
  std::array<std::int64_t, kMaxRank> shape{};
  std::array<std::int64_t, kMaxRank> strides{};
  int rank = 0;
  DType dtype = DType::f32;
  Device device;

  TensorView() = default;
  // Row-major, contiguous.
  TensorView(const void* data, DType dtype, std::initializer_list<std::int64_t> shape,
             Device device = {});
  // Any strides.
  TensorView(const void* data, DType dtype, std::initializer_list<std::int64_t> shape,
             std::initializer_list<std::int64_t> strides, Device device = {});

  bool defined() const { return rank > 0; }
  std::int64_t numel() const;
  bool is_contiguous() const;
  // True when elements of the last dimension are neighbours (or there is at most one).
  bool last_dim_contiguous() const;

  // Views into this view; Error when a dimension or a bound is out of range.
  TensorView slice(int dim, std::int64_t begin, std::int64_t end) const;
  TensorView select(int dim, std::int64_t index) const;  // drops `dim`
  TensorView transpose(int dim0, int dim1) const;
  TensorView unsqueeze(int dim) const;

  // "bfloat16[3, 4] strides [8, 1] on cpu", for messages.
  std::string describe() const;
};

}  // namespace tilewright
