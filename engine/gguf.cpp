// SPDX-License-Identifier: Apache-2.0
#include "engine/gguf.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <limits>
#include <optional>

#include "engine/checks.h"

namespace tilewright::engine {
namespace {

static_assert(std::endian::native == std::endian::little, "GGUF is read in place");

constexpr std::string_view kMagic = "GGUF";
constexpr int kMaxArrayDepth = 4;
constexpr std::uint32_t kMaxDims = 4;
// Least bytes of one entry: what bounds a count by the size of the file.
constexpr std::uint64_t kMinKeyBytes = 8 + 1 + 4 + 1;
constexpr std::uint64_t kMinTensorBytes = 8 + 1 + 4 + 8 + 4 + 8;

constexpr std::array<std::uint64_t, 13> kMinValueBytes = {1, 1, 2, 2, 4, 4, 4, 1, 8, 12, 8, 8, 8};

constexpr GgmlTypeInfo info(std::uint32_t number, std::string_view name, std::int64_t elements,
                            std::int64_t bytes) {
  return {static_cast<GgmlType>(number), name, elements, bytes};
}

// ggml's table (ggml.h, gguf-py/constants.py); numbers 4, 5 and 31 to 33 were withdrawn.
constexpr std::array kTypes = {
    info(0, "F32", 1, 4),         info(1, "F16", 1, 2),         info(2, "Q4_0", 32, 18),
    info(3, "Q4_1", 32, 20),      info(6, "Q5_0", 32, 22),      info(7, "Q5_1", 32, 24),
    info(8, "Q8_0", 32, 34),      info(9, "Q8_1", 32, 36),      info(10, "Q2_K", 256, 84),
    info(11, "Q3_K", 256, 110),   info(12, "Q4_K", 256, 144),   info(13, "Q5_K", 256, 176),
    info(14, "Q6_K", 256, 210),   info(15, "Q8_K", 256, 292),   info(16, "IQ2_XXS", 256, 66),
    info(17, "IQ2_XS", 256, 74),  info(18, "IQ3_XXS", 256, 98), info(19, "IQ1_S", 256, 50),
    info(20, "IQ4_NL", 32, 18),   info(21, "IQ3_S", 256, 110),  info(22, "IQ2_S", 256, 82),
    info(23, "IQ4_XS", 256, 136), info(24, "I8", 1, 1),         info(25, "I16", 1, 2),
    info(26, "I32", 1, 4),        info(27, "I64", 1, 8),        info(28, "F64", 1, 8),
    info(29, "IQ1_M", 256, 56),   info(30, "BF16", 1, 2),       info(34, "TQ1_0", 256, 54),
    info(35, "TQ2_0", 256, 66),   info(39, "MXFP4", 32, 17),
};

// Reads forward through the file; a read past its end is an Error that says what was wanted.
class Cursor {
 public:
  Cursor(const std::string& path, std::span<const std::byte> bytes) : path_(path), bytes_(bytes) {}

  std::uint64_t position() const { return position_; }
  std::uint64_t remaining() const { return bytes_.size() - position_; }

  template <typename T>
  T read(std::string_view what) {
    T value;
    std::memcpy(&value, take(sizeof(T), what), sizeof(T));
    return value;
  }

  std::string_view read_string(std::string_view what) {
    const auto length = read<std::uint64_t>(what);
    return {reinterpret_cast<const char*>(take(length, what)), static_cast<std::size_t>(length)};
  }

  // A number of entries that need at least `min_bytes` each.
  std::uint64_t check_count(std::uint64_t count, std::uint64_t min_bytes, std::string_view what) {
    require(count <= remaining() / min_bytes,
            "{}: {} is {}: the {} bytes that remain in the file hold at most {}", path_, what,
            count, remaining(), remaining() / min_bytes);
    return count;
  }

 private:
  const std::byte* take(std::uint64_t count, std::string_view what) {
    require(count <= remaining(), "{}: truncated: {} needs {} bytes at offset {}, {} remain of {}",
            path_, what, count, position_, remaining(), bytes_.size());
    const std::byte* data = bytes_.data() + position_;
    position_ += count;
    return data;
  }

  const std::string& path_;
  std::span<const std::byte> bytes_;
  std::uint64_t position_ = 0;
};

// Value types by the file format's numbers; those without a reader are made of others.
constexpr std::uint32_t kBoolean = 7;
constexpr std::uint32_t kString = 8;

template <typename T>
GgufValue read_scalar(Cursor& cursor, std::string_view what) {
  const T value = cursor.read<T>(what);
  if constexpr (std::is_floating_point_v<T>) return {static_cast<double>(value)};
  if constexpr (std::is_signed_v<T>) return {static_cast<std::int64_t>(value)};
  return {static_cast<std::uint64_t>(value)};
}

constexpr std::array<GgufValue (*)(Cursor&, std::string_view), 13> kScalarReaders = {
    read_scalar<std::uint8_t>,
    read_scalar<std::int8_t>,
    read_scalar<std::uint16_t>,
    read_scalar<std::int16_t>,
    read_scalar<std::uint32_t>,
    read_scalar<std::int32_t>,
    read_scalar<float>,
    nullptr,
    nullptr,
    nullptr,
    read_scalar<std::uint64_t>,
    read_scalar<std::int64_t>,
    read_scalar<double>};

std::uint32_t read_value_type(Cursor& cursor, const std::string& path, std::string_view what) {
  const auto type = cursor.read<std::uint32_t>(what);
  require(type < kMinValueBytes.size(), "{}: {} has value type {}: it must be at most {}", path,
          what, type, kMinValueBytes.size() - 1);
  return type;
}

GgufValue read_value(Cursor& cursor, const std::string& path, std::uint32_t type,
                     std::string_view what, int depth = 0) {
  if (kScalarReaders[type] != nullptr) return kScalarReaders[type](cursor, what);
  if (type == kString) return {cursor.read_string(what)};
  if (type == kBoolean) {
    const auto byte = cursor.read<std::uint8_t>(what);
    require(byte <= 1, "{}: {} is boolean {}: it must be 0 or 1", path, what, byte);
    return {byte == 1};
  }
  require(depth < kMaxArrayDepth, "{}: {} nests arrays deeper than {}", path, what, kMaxArrayDepth);
  const std::uint32_t element = read_value_type(cursor, path, what);
  const auto count = cursor.check_count(cursor.read<std::uint64_t>(what), kMinValueBytes[element],
                                        fmt::format("the length of {}", what));
  GgufArray array;
  array.reserve(count);
  for (std::uint64_t i = 0; i < count; ++i) {
    array.push_back(read_value(cursor, path, element, what, depth + 1));
  }
  return {std::move(array)};
}

// One entry of the tensor directory, with its offset still relative to the data section.
struct DirectoryEntry {
  GgufTensor tensor;
  std::uint64_t offset = 0;
  std::uint64_t bytes = 0;
};

// Shape and type to bytes, with every product checked against the largest possible file.
std::uint64_t checked_bytes(const GgufTensor& tensor, const std::string& path) {
  constexpr std::int64_t kLimit = std::numeric_limits<std::int64_t>::max() / 1024;
  std::int64_t count = 1;
  for (const std::int64_t extent : tensor.shape) {
    require(extent >= 1 && extent <= kLimit / count,
            "{}: tensor {} has shape {}: extents must be positive and their product at most {}",
            path, quoted(tensor.name), tensor.shape, kLimit);
    count *= extent;
  }
  require(tensor.shape.back() % tensor.type->block_elements == 0,
          "{}: tensor {} has rows of {}: {} needs a multiple of {}", path, quoted(tensor.name),
          tensor.shape.back(), tensor.type->name, tensor.type->block_elements);
  return static_cast<std::uint64_t>(count / tensor.type->block_elements * tensor.type->block_bytes);
}

DirectoryEntry read_entry(Cursor& cursor, const std::string& path, std::uint64_t index) {
  DirectoryEntry entry;
  GgufTensor& tensor = entry.tensor;
  tensor.name = cursor.read_string(fmt::format("the name of tensor {}", index));
  require(!tensor.name.empty(), "{}: tensor {} has an empty name", path, index);
  const std::string what = fmt::format("the directory entry of tensor {}", quoted(tensor.name));
  const auto dims = cursor.read<std::uint32_t>(what);
  require(dims >= 1 && dims <= kMaxDims, "{}: tensor {} has {} dimensions: it must have 1 to {}",
          path, quoted(tensor.name), dims, kMaxDims);
  for (std::uint32_t i = 0; i < dims; ++i) {
    tensor.shape.push_back(static_cast<std::int64_t>(cursor.read<std::uint64_t>(what)));
  }
  std::reverse(tensor.shape.begin(), tensor.shape.end());  // the file has the fastest one first
  const auto type = cursor.read<std::uint32_t>(what);
  tensor.type = find_ggml_type(type);
  require(tensor.type != nullptr, "{}: tensor {} has unknown type {}", path, quoted(tensor.name),
          type);
  entry.bytes = checked_bytes(tensor, path);
  entry.offset = cursor.read<std::uint64_t>(what);
  return entry;
}

// Places the entries in the data section and refuses those outside of it or unaligned.
void place(std::vector<DirectoryEntry>& entries, std::span<const std::byte> data,
           std::uint64_t alignment, const std::string& path) {
  for (DirectoryEntry& entry : entries) {
    require(entry.offset % alignment == 0,
            "{}: tensor {} has data offset {}: it must be a multiple of {}", path,
            quoted(entry.tensor.name), entry.offset, alignment);
    require(entry.offset <= data.size() && entry.bytes <= data.size() - entry.offset,
            "{}: truncated: tensor {} has {} bytes at data offset {}, but the data section has {}",
            path, quoted(entry.tensor.name), entry.bytes, entry.offset, data.size());
    entry.tensor.data = data.subspan(entry.offset, entry.bytes);
  }
}

// No byte belongs to two tensors.
void refuse_overlaps(const std::vector<DirectoryEntry>& entries, const std::string& path) {
  std::vector<const DirectoryEntry*> order;
  for (const DirectoryEntry& entry : entries) order.push_back(&entry);
  std::ranges::sort(order, {}, &DirectoryEntry::offset);
  for (std::size_t i = 1; i < order.size(); ++i) {
    const DirectoryEntry& before = *order[i - 1];
    require(before.offset + before.bytes <= order[i]->offset,
            "{}: tensors {} and {} overlap: at data offsets {} and {}, the first has {} bytes",
            path, quoted(before.tensor.name), quoted(order[i]->tensor.name), before.offset,
            order[i]->offset, before.bytes);
  }
}

constexpr std::array<std::string_view, 6> kVariantNames = {"a boolean", "an integer", "an integer",
                                                           "a number",  "a string",   "an array"};

template <typename T>
const T& get_as(const GgufValue& value, const std::string& path, std::string_view key,
                std::string_view expected) {
  const T* typed = std::get_if<T>(&value.value);
  require(typed != nullptr, "{}: key {} holds {}: it must hold {}", path, quoted(key),
          kVariantNames[value.value.index()], expected);
  return *typed;
}

std::optional<std::int64_t> as_integer(const GgufValue& value) {
  if (const auto* v = std::get_if<std::int64_t>(&value.value)) return *v;
  if (const auto* v = std::get_if<std::uint64_t>(&value.value)) {
    return static_cast<std::int64_t>(
        std::min<std::uint64_t>(*v, std::numeric_limits<std::int64_t>::max()));
  }
  return std::nullopt;
}

std::int64_t get_integer(const GgufValue& value, const std::string& path, std::string_view key,
                         std::int64_t min, std::int64_t max) {
  const auto integer = as_integer(value);
  require(integer.has_value(), "{}: key {} holds {}: it must hold an integer", path, quoted(key),
          kVariantNames[value.value.index()]);
  require(*integer >= min && *integer <= max, "{}: key {} holds {}: it must be in [{}, {}]", path,
          quoted(key), *integer, min, max);
  return *integer;
}

}  // namespace

const GgmlTypeInfo* find_ggml_type(std::uint32_t number) {
  const auto* found = std::ranges::find(kTypes, static_cast<GgmlType>(number), &GgmlTypeInfo::type);
  return found == kTypes.end() ? nullptr : found;
}

std::int64_t GgufTensor::numel() const {
  std::int64_t count = 1;
  for (const std::int64_t extent : shape) count *= extent;
  return count;
}

GgufFile::GgufFile(const std::string& path) : path_(path), file_(path) {
  read(file_->bytes());
}

GgufFile::GgufFile(const std::string& name, std::span<const std::byte> bytes) : path_(name) {
  read(bytes);
}

void GgufFile::read(std::span<const std::byte> bytes) {
  Cursor cursor(path_, bytes);
  const auto magic = cursor.read<std::array<char, 4>>("the magic");
  require(std::string_view(magic.data(), magic.size()) == kMagic,
          "{}: begins with {}: a GGUF file begins with 'GGUF'", path_,
          quoted({magic.data(), magic.size()}));
  const auto version = cursor.read<std::uint32_t>("the version");
  require(version == 2 || version == 3, "{}: GGUF version is {}: it must be 2 or 3{}", path_,
          version, (version & 0xFFFFU) == 0 ? " (big-endian files are not read)" : "");
  const auto tensor_count = cursor.read<std::uint64_t>("the tensor count");
  const auto key_count = cursor.check_count(cursor.read<std::uint64_t>("the key count"),
                                            kMinKeyBytes, "the key count");
  cursor.check_count(tensor_count, kMinTensorBytes, "the tensor count");

  for (std::uint64_t i = 0; i < key_count; ++i) {
    const std::string_view key = cursor.read_string(fmt::format("the name of key {}", i));
    require(!key.empty(), "{}: key {} has an empty name", path_, i);
    const std::string what = fmt::format("key {}", quoted(key));
    GgufValue value = read_value(cursor, path_, read_value_type(cursor, path_, what), what);
    require(metadata_.emplace(key, std::move(value)).second, "{}: {} appears twice", path_, what);
  }

  std::vector<DirectoryEntry> entries;
  cursor.check_count(tensor_count, kMinTensorBytes, "the tensor count");
  entries.reserve(tensor_count);
  for (std::uint64_t i = 0; i < tensor_count; ++i) {
    entries.push_back(read_entry(cursor, path_, i));
    const std::string_view name = entries.back().tensor.name;
    require(tensor_index_.emplace(name, i).second, "{}: tensor {} appears twice", path_,
            quoted(name));
  }

  const auto alignment = static_cast<std::uint64_t>(
      has("general.alignment") ? integer("general.alignment", 1, 1 << 20) : 32);
  require(std::has_single_bit(alignment), "{}: general.alignment is {}: it must be a power of two",
          path_, alignment);
  const std::uint64_t begin = (cursor.position() + alignment - 1) / alignment * alignment;
  place(entries, bytes.subspan(std::min<std::uint64_t>(begin, bytes.size())), alignment, path_);
  refuse_overlaps(entries, path_);
  for (DirectoryEntry& entry : entries) tensors_.push_back(std::move(entry.tensor));
}

const GgufValue& GgufFile::value(std::string_view key) const {
  const auto found = metadata_.find(key);
  require(found != metadata_.end(), "{}: key {} is missing", path_, quoted(key));
  return found->second;
}

bool GgufFile::boolean(std::string_view key) const {
  return get_as<bool>(value(key), path_, key, "a boolean");
}

std::int64_t GgufFile::integer(std::string_view key, std::int64_t min, std::int64_t max) const {
  return get_integer(value(key), path_, key, min, max);
}

double GgufFile::number(std::string_view key) const {
  const GgufValue& found = value(key);
  if (const auto as_int = as_integer(found)) return static_cast<double>(*as_int);
  return get_as<double>(found, path_, key, "a number");
}

std::string_view GgufFile::string(std::string_view key) const {
  return get_as<std::string_view>(value(key), path_, key, "a string");
}

std::vector<std::string_view> GgufFile::strings(std::string_view key) const {
  std::vector<std::string_view> out;
  for (const GgufValue& v : get_as<GgufArray>(value(key), path_, key, "an array of strings")) {
    out.push_back(get_as<std::string_view>(v, path_, key, "strings only"));
  }
  return out;
}

std::vector<std::int64_t> GgufFile::integers(std::string_view key, std::int64_t min,
                                             std::int64_t max) const {
  std::vector<std::int64_t> out;
  for (const GgufValue& v : get_as<GgufArray>(value(key), path_, key, "an array of integers")) {
    out.push_back(get_integer(v, path_, key, min, max));
  }
  return out;
}

const GgufTensor* GgufFile::find_tensor(std::string_view name) const {
  const auto found = tensor_index_.find(name);
  return found == tensor_index_.end() ? nullptr : &tensors_[found->second];
}

const GgufTensor& GgufFile::tensor(std::string_view name,
                                   std::span<const std::int64_t> shape) const {
  const GgufTensor* found = find_tensor(name);
  require(found != nullptr, "{}: tensor {} is missing", path_, quoted(name));
  require(std::ranges::equal(found->shape, shape), "{}: tensor {} has shape {}: it must be {}",
          path_, quoted(name), found->shape, shape);
  return *found;
}

}  // namespace tilewright::engine
