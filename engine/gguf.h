// SPDX-License-Identifier: Apache-2.0
// GGUF files, versions 2 and 3, little endian: metadata and the tensor directory over a read-only
// mapping. Everything in the file is checked when it is opened; errors name file, key or tensor,
// value and expectation.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <variant>
#include <vector>

#include "engine/ggml_type.h"
#include "engine/mapped_file.h"

namespace tilewright::engine {

struct GgufValue;
using GgufArray = std::vector<GgufValue>;

// All unsigned, signed and floating-point widths are widened; strings are views into the file.
struct GgufValue {
  std::variant<bool, std::uint64_t, std::int64_t, double, std::string_view, GgufArray> value;
};

struct GgufTensor {
  std::string_view name;
  const GgmlTypeInfo* type = nullptr;
  std::vector<std::int64_t> shape;  // row-major: a linear layer's weight is [out, in]
  std::span<const std::byte> data;  // rows of the last dimension in blocks of `type`

  std::int64_t numel() const;
};

// Views and references it hands out live as long as the GgufFile.
class GgufFile {
 public:
  explicit GgufFile(const std::string& path);
  // A file that is in memory, for as long as this lives; `name` is what errors call it.
  GgufFile(const std::string& name, std::span<const std::byte> bytes);

  const std::string& path() const { return path_; }

  // Each is an Error when the key is missing, of another type or out of range.
  bool has(std::string_view key) const { return metadata_.contains(key); }
  const GgufValue& value(std::string_view key) const;
  bool boolean(std::string_view key) const;
  std::int64_t integer(std::string_view key, std::int64_t min, std::int64_t max) const;
  double number(std::string_view key) const;
  std::string_view string(std::string_view key) const;
  std::vector<std::string_view> strings(std::string_view key) const;
  std::vector<std::int64_t> integers(std::string_view key, std::int64_t min,
                                     std::int64_t max) const;

  const std::vector<GgufTensor>& tensors() const { return tensors_; }
  const GgufTensor* find_tensor(std::string_view name) const;  // nullptr when there is none
  const GgufTensor& tensor(std::string_view name, std::span<const std::int64_t> shape) const;

 private:
  void read(std::span<const std::byte> bytes);

  std::string path_;
  std::optional<MappedFile> file_;
  std::unordered_map<std::string_view, GgufValue> metadata_;
  std::vector<GgufTensor> tensors_;
  std::unordered_map<std::string_view, std::size_t> tensor_index_;
};

}  // namespace tilewright::engine
