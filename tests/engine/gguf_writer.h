// SPDX-License-Identifier: Apache-2.0
// Writes small GGUF files for tests, damaged ones included.
#pragma once

#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <map>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace tilewright::test {

// A file in the temporary folder that goes away with the object.
class TemporaryFile {
 public:
  explicit TemporaryFile(std::string_view contents) {
    static int count = 0;
    path_ = (std::filesystem::temp_directory_path() /
             ("tilewright-test-" + std::to_string(::getpid()) + "-" + std::to_string(count++)))
                .string();
    std::ofstream file(path_, std::ios::binary);
    file << contents;
    if (!file.flush()) throw std::runtime_error("cannot write " + path_);
  }
  ~TemporaryFile() { std::remove(path_.c_str()); }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;

  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

class GgufWriter {
 public:
  // What a damaged file says instead of the truth.
  std::string magic = "GGUF";
  std::uint32_t version = 3;
  std::int64_t extra_tensors = 0;
  std::int64_t extra_keys = 0;
  std::map<std::string, std::int64_t> offset_shift;  // by tensor

  // Scalars: bool, integers of 8 to 64 bits, float, double, strings.
  template <typename T>
  GgufWriter& set(std::string_view key, const T& value) {
    std::string entry = as_string(key);
    append_scalar_with_type(entry, value);
    return set_raw(entry);
  }

  template <typename T>
  GgufWriter& set(std::string_view key, const std::vector<T>& values) {
    std::string entry = as_string(key) + raw(kArray);
    append_array(entry, values);
    return set_raw(entry);
  }

  // A whole entry: key, type and value.
  GgufWriter& set_raw(std::string_view entry) {
    keys_ += entry;
    ++key_count_;
    return *this;
  }

  // `shape` is row-major, [out, in]; `data` has the bytes of the type.
  GgufWriter& add_tensor(std::string_view name, const std::vector<std::int64_t>& shape,
                         std::uint32_t type, std::string_view data) {
    tensors_.push_back({std::string(name), shape, type, std::string(data)});
    return *this;
  }

  GgufWriter& add_tensor(std::string_view name, const std::vector<std::int64_t>& shape,
                         const std::vector<float>& values) {
    return add_tensor(
        name, shape, 0,
        {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)});
  }

  std::string bytes(std::uint64_t alignment = 32) const {
    std::string out = magic + raw(version) + raw(count_of(tensors_.size(), extra_tensors)) +
                      raw(count_of(key_count_, extra_keys)) + keys_;
    std::string data;
    for (const Tensor& tensor : tensors_) {
      pad(data, alignment);
      out += as_string(tensor.name) + raw(static_cast<std::uint32_t>(tensor.shape.size()));
      for (std::size_t i = tensor.shape.size(); i-- > 0;) out += raw(tensor.shape[i]);
      const auto shift = offset_shift.find(tensor.name);
      out += raw(tensor.type);
      out += raw(count_of(data.size(), shift == offset_shift.end() ? 0 : shift->second));
      data += tensor.data;
    }
    if (!tensors_.empty()) pad(out, alignment);
    return out + data;
  }

  template <typename T>
  static std::string raw(const T& value) {
    return {reinterpret_cast<const char*>(&value), sizeof(T)};
  }
  static std::string as_string(std::string_view text) {
    return raw(static_cast<std::uint64_t>(text.size())).append(text);
  }

 private:
  static constexpr std::uint32_t kArray = 9;

  struct Tensor {
    std::string name;
    std::vector<std::int64_t> shape;
    std::uint32_t type;
    std::string data;
  };

  static std::uint64_t count_of(std::uint64_t count, std::int64_t extra) {
    return count + static_cast<std::uint64_t>(extra);
  }

  static void pad(std::string& out, std::uint64_t alignment) {
    out.resize((out.size() + alignment - 1) / alignment * alignment);
  }

  template <typename T>
  static constexpr std::uint32_t type_of() {
    if constexpr (std::is_same_v<T, bool>) return 7;
    if constexpr (std::is_same_v<T, float>) return 6;
    if constexpr (std::is_same_v<T, double>) return 12;
    if constexpr (std::is_same_v<T, std::uint8_t>) return 0;
    if constexpr (std::is_same_v<T, std::int8_t>) return 1;
    if constexpr (std::is_same_v<T, std::uint16_t>) return 2;
    if constexpr (std::is_same_v<T, std::int16_t>) return 3;
    if constexpr (std::is_same_v<T, std::uint32_t>) return 4;
    if constexpr (std::is_same_v<T, std::int32_t>) return 5;
    if constexpr (std::is_same_v<T, std::uint64_t>) return 10;
    if constexpr (std::is_same_v<T, std::int64_t>) return 11;
    return 8;
  }

  template <typename T>
  static void append_scalar(std::string& out, const T& value) {
    if constexpr (type_of<T>() == 8) {
      out += as_string(value);
    } else {
      out += raw(value);
    }
  }

  template <typename T>
  static void append_scalar_with_type(std::string& out, const T& value) {
    out += raw(type_of<T>());
    append_scalar(out, value);
  }

  template <typename T>
  static void append_array(std::string& out, const std::vector<T>& values) {
    out += raw(type_of<T>()) + raw(static_cast<std::uint64_t>(values.size()));
    for (const T& value : values) append_scalar(out, value);
  }
  template <typename T>
  static void append_array(std::string& out, const std::vector<std::vector<T>>& values) {
    out += raw(kArray) + raw(static_cast<std::uint64_t>(values.size()));
    for (const auto& value : values) append_array(out, value);
  }

  std::string keys_;
  std::uint64_t key_count_ = 0;
  std::vector<Tensor> tensors_;
};

}  // namespace tilewright::test
