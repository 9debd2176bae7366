// SPDX-License-Identifier: Apache-2.0
#include "jit/pack.h"

#include <charconv>
#include <cstring>
#include <optional>

#include "base/checks.h"
#include "jit/disk_cache.h"
#include "jit/kernel_store.h"

namespace tilewright {
namespace jit {
namespace {

constexpr std::string_view kMagic = "tilewright pack 1\n";

}  // namespace

// The magic line, the number of kernels, and each as encode() writes it, with its own checksum.
void write_pack(const std::string& path,
                const std::vector<std::shared_ptr<const Binary>>& binaries) {
  std::string data = fmt::format("{}{}\n", kMagic, binaries.size());
  for (const auto& binary : binaries) data += encode(*binary);
  const std::string why = replace_file(path, data);
  require(why.empty(), "the pack {} cannot be written: {}", path, why);
}

std::vector<Binary> read_pack(const std::string& path) {
  int error_number = 0;
  const std::optional<std::string> data = read_file(path, error_number);
  require(data.has_value(), "the pack {} cannot be read: {}", path, std::strerror(error_number));
  std::string_view rest = *data;
  require(rest.starts_with(kMagic), "{} is no pack of this version: it does not begin with \"{}\"",
          path, kMagic.substr(0, kMagic.size() - 1));
  rest.remove_prefix(kMagic.size());
  std::size_t count = 0;
  const auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), count);
  require(error == std::errc{} && end != rest.data() + rest.size() && *end == '\n',
          "the pack {} is damaged: it has no number of kernels", path);
  rest.remove_prefix(static_cast<std::size_t>(end - rest.data()) + 1);
  std::vector<Binary> out;
  try {
    for (std::size_t i = 0; i < count; ++i) out.push_back(decode(rest));
    require(rest.empty(), "{} bytes too many", rest.size());
  } catch (const Error& damage) {
    raise(ErrorCode::invalid_argument, "the pack {} is damaged at kernel {} of {}: {}", path,
          out.size(), count, damage.what());
  }
  return out;
}

}  // namespace jit

std::size_t load_kernel_pack(const std::string& path) {
  std::vector<jit::Binary> binaries = jit::read_pack(path);
  const std::size_t count = binaries.size();
  jit::add_binaries(std::move(binaries));
  return count;
}

}  // namespace tilewright
