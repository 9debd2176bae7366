// SPDX-License-Identifier: Apache-2.0
// From the C API's structs to what they mean: sizes, enumerations, tensors, parameters. Nothing
// here allocates unless it raises, but for params() where a list grows.
#pragma once

#include <tilewright/attention.h>
#include <tilewright/c_base.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <type_traits>
#include <vector>

#include "base/checks.h"

namespace tilewright::c_api {

// Where a value was given, for messages: "inputs[0].levels[1].kv_lens". Text is made only then.
class Path {
 public:
  // NOLINTNEXTLINE(google-explicit-constructor): names are written bare where arguments are read
  Path(const char* name) : name_(name) {}
  Path(const Path& owner, const char* member) : owner_(&owner), name_(member) {}
  Path(const Path& list, std::size_t index) : owner_(&list), index_(index) {}

  std::string text() const;

 private:
  const Path* owner_ = nullptr;
  const char* name_ = nullptr;
  std::size_t index_ = 0;  // where there is no name
};

}  // namespace tilewright::c_api

template <>
struct fmt::formatter<tilewright::c_api::Path> : fmt::formatter<std::string> {
  auto format(const tilewright::c_api::Path& path, fmt::format_context& context) const {
    return fmt::formatter<std::string>::format(path.text(), context);
  }
};

namespace tilewright::c_api {

template <typename T>
T& required(const Path& path, T* pointer) {
  require(pointer != nullptr, "{} is NULL: it must be given", path);
  return *pointer;
}

// The bytes of a struct in the version that had it first: none of them may be missing. A struct
// that grows gets a specialisation with the size that it had.
template <typename T>
inline constexpr std::size_t kFirstSize = sizeof(T);

// Errors for a size that no version has; `known` is sizeof here.
void check_size(const Path& path, std::size_t size, std::size_t first, std::size_t known);
// Error unless the bytes from `known` on are zero.
void check_tail(const Path& path, const void* data, std::size_t size, std::size_t known);

// The caller's struct in this version's size: what an older caller does not know is zero.
template <typename T>
T read_struct(const Path& path, const T* given) {
  const std::size_t size = required(path, given).size;
  check_size(path, size, kFirstSize<T>, sizeof(T));
  check_tail(path, given, size, sizeof(T));
  T copy{};
  std::memcpy(&copy, given, std::min(size, sizeof(T)));
  return copy;
}

// Fills a caller's struct as far as it goes; its size stays, and what this version does not know is
// zero.
template <typename T>
void write_struct(const Path& path, T* target, T value) {
  const std::size_t size = required(path, target).size;
  check_size(path, size, kFirstSize<T>, sizeof(T));
  value.size = size;
  std::memcpy(target, &value, std::min(size, sizeof(T)));
  if (size > sizeof(T)) {
    std::memset(reinterpret_cast<std::byte*>(target) + sizeof(T), 0, size - sizeof(T));
  }
}

// A list of structs that may all have another version's size: `at(i)` is the i-th.
template <typename T>
class StructList {
 public:
  StructList(const Path& path, T* first, std::size_t count)
      : path_(path), first_(first), count_(count) {
    if (count == 0) return;
    stride_ = required(path, first).size;
    check_size({path, std::size_t{0}}, stride_, kFirstSize<T>, sizeof(T));
  }

  std::size_t size() const { return count_; }
  T* at(std::size_t i) const {
    using Byte = std::conditional_t<std::is_const_v<T>, const std::byte, std::byte>;
    return reinterpret_cast<T*>(reinterpret_cast<Byte*>(first_) + i * stride_);
  }
  std::remove_const_t<T> read(std::size_t i) const {
    require(at(i)->size == stride_, "{}[{}].size is {}: it must be that of {}[0], {}", path_, i,
            at(i)->size, path_, stride_);
    return read_struct<std::remove_const_t<T>>({path_, i}, at(i));
  }
  // Their sizes need not be set, but that of the first one.
  void write(std::size_t i, std::remove_const_t<T> value) const {
    at(i)->size = stride_;
    write_struct<T>({path_, i}, at(i), value);
  }

 private:
  Path path_;
  T* first_;
  std::size_t count_;
  std::size_t stride_ = 0;
};

// More than any call has: longer lists are a count that is garbage.
inline constexpr std::size_t kMaxCount = 4096;
void check_count(const Path& path, std::size_t count);

// `things`: what there are `count` of, in the plural.
void check_index(const Path& path, std::size_t index, std::size_t count, const char* things);

std::vector<std::string> read_strings(const Path& path, const char* const* texts,
                                      std::size_t count);

// An enumeration's value, from 0 to `last`.
void check_enum(const Path& path, std::int64_t value, std::int64_t last);
template <typename T>
T read_enum(const Path& path, std::int32_t value, T last) {
  check_enum(path, value, static_cast<std::int64_t>(last));
  return static_cast<T>(value);
}
bool read_flag(const Path& path, std::int32_t value);
void check_reserved(const Path& path, std::int32_t value);

DType read_dtype(const Path& path, tw_dtype dtype);
tw_dtype c_dtype(DType dtype);
Device read_device(const Path& path, tw_device device);
tw_device c_device(Device device);

// Rank 0 is no tensor. Errors: a rank, dtype or device that there is not, a negative extent, more
// bytes than memory has, a null or misaligned pointer.
TensorView read_tensor(const Path& path, const tw_tensor& tensor);
inline TensorView read_tensor(const Path& path, const tw_tensor* tensor) {
  return read_tensor(path, required(path, tensor));
}
inline TensorView read_optional_tensor(const Path& path, const tw_tensor* tensor) {
  return tensor == nullptr ? TensorView{} : read_tensor(path, *tensor);
}
tw_tensor c_tensor(const TensorView& view);

inline Stream read_stream(tw_stream stream) {
  return {stream};
}

// 1 where it is not given.
Scale read_scale(const Path& path, const tw_real* scale);

std::vector<ParamValue> read_params(const Path& path, const tw_param* params, std::size_t count);
void read_param(const Path& path, const tw_param& param, ParamValue& value);

}  // namespace tilewright::c_api
