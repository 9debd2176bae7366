// SPDX-License-Identifier: Apache-2.0
#include "jit/kernel_source.h"

#include <algorithm>

#include "base/checks.h"

namespace tilewright::jit {
namespace {

const EmbeddedFile* find_file(std::string_view name) {
  for (const EmbeddedFile& file : embedded_files()) {
    if (file.name == name) return &file;
  }
  return nullptr;
}

// Calls `visit` with the name in each #include line of a text.
template <typename Visit>
void for_each_include(std::string_view text, const Visit& visit) {
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    line.remove_prefix(std::min(line.find_first_not_of(" \t"), line.size()));
    if (!line.starts_with("#include")) continue;
    const std::size_t open = line.find_first_of("\"<");
    if (open == std::string_view::npos) continue;
    const std::size_t close = line.find_first_of("\">", open + 1);
    if (close != std::string_view::npos) visit(line.substr(open + 1, close - open - 1));
  }
}

void add_includes(std::string_view text, std::string_view of,
                  std::vector<const EmbeddedFile*>& files) {
  for_each_include(text, [&](std::string_view name) {
    const EmbeddedFile* file = find_file(name);
    if (file == nullptr) {
      raise(ErrorCode::internal, "{} includes {}, which is no embedded file", of, name);
    }
    if (std::find(files.begin(), files.end(), file) != files.end()) return;
    files.push_back(file);
    add_includes(file->text, file->name, files);
  });
}

}  // namespace

std::vector<const EmbeddedFile*> included_files(const std::string& source) {
  std::vector<const EmbeddedFile*> files;
  add_includes(source, "a kernel's source", files);
  return files;
}

std::vector<std::string> compile_options(const KernelSource& source, const std::string& arch) {
  std::vector<std::string> options{"-std=c++20", "-default-device", "--ptxas-options=-v",
                                   "-arch=" + arch};
  options.insert(options.end(), source.options.begin(), source.options.end());
  return options;
}

Digest digest_of(const KernelSource& source, const std::string& arch) {
  Hasher hasher;
  hasher.text("tilewright kernel 1").text(source.name).text(source.source);
  std::vector<const EmbeddedFile*> files = included_files(source.source);
  for (const EmbeddedFile* file : files) hasher.text(file->name).text(file->text);
  for (const std::string& option : compile_options(source, arch)) hasher.text(option);
  for (const std::string& entry : source.entries) hasher.text(entry);
  hasher.text(fmt::format("{} {} {} {} {}", source.budget.max_registers, source.budget.allow_stack,
                          source.budget.max_spill_bytes, source.budget.allow_performance_loss,
                          source.shared_bytes));
  return hasher.digest();
}

}  // namespace tilewright::jit
