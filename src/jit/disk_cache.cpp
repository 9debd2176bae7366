// SPDX-License-Identifier: Apache-2.0
#include "jit/disk_cache.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "base/checks.h"
#include "jit/entry_lock.h"
#include "jit/settings.h"

namespace tilewright {
namespace jit {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kEntry = ".kernel";
constexpr std::string_view kTemporary = ".tmp";

class FileDescriptor {
 public:
  explicit FileDescriptor(int fd) : fd_(fd) {}
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;
  ~FileDescriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  int get() const { return fd_; }
  int close() {
    const int fd = fd_;
    fd_ = -1;
    return ::close(fd);
  }

 private:
  int fd_;
};

bool write_all(int fd, std::string_view data) {
  while (!data.empty()) {
    const ssize_t written = ::write(fd, data.data(), data.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return false;
    data.remove_prefix(static_cast<std::size_t>(written));
  }
  return true;
}

std::string entry_path(const std::string& folder, const Digest& source,
                       const std::string& compiler) {
  return fs::path(folder) /
         (Hasher().text(source.hex()).text(compiler).digest().hex() + std::string(kEntry));
}

// Entries and what interrupted writes have left; other files of the folder are not ours.
template <typename Visit>
void for_each_file(const std::string& folder, const Visit& visit) {
  std::error_code error;
  if (folder.empty()) return;
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(folder, error)) files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  for (const fs::path& file : files) visit(file);
}

KernelCacheEntry describe(const fs::path& file) {
  KernelCacheEntry out;
  out.file = file.string();
  int error_number = 0;
  const std::optional<std::string> data = read_file(out.file, error_number);
  if (!data) {
    out.damage = std::strerror(error_number);
    return out;
  }
  out.bytes = data->size();
  try {
    std::string_view rest = *data;
    const Binary binary = decode(rest);
    require(rest.empty(), "{} bytes too many", rest.size());
    out.kernel = binary.name;
    out.arch = binary.arch;
    out.compiler = binary.compiler;
    out.seconds = binary.seconds;
    if (entry_path(file.parent_path(), binary.source, binary.compiler) != file) {
      out.damage = "it has the name of another entry";
    }
  } catch (const Error& error) {
    out.damage = error.what();
  }
  return out;
}

}  // namespace

std::string cache_folder() {
  if (const auto set = settings().cache_folder) return *set;
  const char* cache = std::getenv("XDG_CACHE_HOME");
  const char* home = std::getenv("HOME");
  if (cache != nullptr && fs::path(cache).is_absolute()) {
    return fs::path(cache) / "tilewright" / "kernels";
  }
  if (home != nullptr && fs::path(home).is_absolute()) {
    return fs::path(home) / ".cache" / "tilewright" / "kernels";
  }
  return "";
}

std::optional<std::string> read_file(const std::string& path, int& error) {
  const FileDescriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  std::string data;
  for (std::size_t size = 0; file.get() >= 0;) {
    if (size == data.size()) data.resize(size + (1 << 18));
    const ssize_t got = ::read(file.get(), data.data() + size, data.size() - size);
    if (got == 0) {
      data.resize(size);
      return data;
    }
    if (got < 0 && errno != EINTR) break;
    if (got > 0) size += static_cast<std::size_t>(got);
  }
  error = errno;
  return std::nullopt;
}

std::string replace_file(const std::string& path, std::string_view data) {
  static std::atomic<unsigned> counter{0};
  const std::string temporary =
      fmt::format("{}.{}.{}{}", path, ::getpid(), counter.fetch_add(1), kTemporary);
  FileDescriptor file(::open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644));
  if (file.get() < 0) return std::strerror(errno);
  // A full disk may show at any of these.
  if (!write_all(file.get(), data) || ::fsync(file.get()) != 0 || file.close() != 0 ||
      ::rename(temporary.c_str(), path.c_str()) != 0) {
    std::string why = std::strerror(errno);
    ::unlink(temporary.c_str());
    return why;
  }
  return "";
}

bool has_entry(const Digest& source, const std::string& compiler) {
  const std::string folder = cache_folder();
  return !folder.empty() && ::access(entry_path(folder, source, compiler).c_str(), F_OK) == 0;
}

std::optional<Binary> load_entry(const Digest& source, const std::string& compiler) {
  const std::string folder = cache_folder();
  if (folder.empty()) return std::nullopt;
  const std::string path = entry_path(folder, source, compiler);
  int error_number = 0;
  const std::optional<std::string> data = read_file(path, error_number);
  if (!data) {
    if (error_number != ENOENT && error_number != ENOTDIR) {
      warn_once("read " + folder,
                fmt::format("the kernel cache cannot read {}: {}; kernels are compiled", path,
                            std::strerror(error_number)));
    }
    return std::nullopt;
  }
  try {
    std::string_view rest = *data;
    Binary binary = decode(rest);
    require(rest.empty(), "{} bytes too many", rest.size());
    require(binary.source == source && binary.compiler == compiler,
            "it is an entry of another kernel");
    return binary;
  } catch (const Error& error) {
    warn(fmt::format("the kernel cache has a damaged entry, which is compiled anew: {}: {}", path,
                     error.what()));
    return std::nullopt;
  }
}

void store_entry(const Binary& binary) {
  const std::string folder = cache_folder();
  if (folder.empty()) {
    warn_once(
        "no folder",
        "there is no folder for the kernel cache (neither XDG_CACHE_HOME nor HOME is set): each "
        "process compiles its kernels");
    return;
  }
  std::error_code error;
  fs::create_directories(folder, error);
  const std::string why =
      replace_file(entry_path(folder, binary.source, binary.compiler), encode(binary));
  if (!why.empty()) {
    warn_once("write " + folder,
              fmt::format("the kernel cache in {} cannot be written: {}; each process compiles its "
                          "kernels",
                          folder, error ? error.message() : why));
  }
}

std::vector<KernelCacheEntry> list_entries(const std::string& folder) {
  std::vector<KernelCacheEntry> out;
  for_each_file(folder, [&](const fs::path& file) {
    if (file.extension() == kEntry) out.push_back(describe(file));
  });
  return out;
}

std::size_t remove_entries(const std::string& folder, bool damaged_only) {
  std::size_t removed = 0;
  for_each_file(folder, [&](const fs::path& file) {
    const bool ours = file.extension() == kEntry ? !damaged_only || !describe(file).damage.empty()
                      : file.filename() == kLockFile ? !damaged_only
                                                     : file.extension() == kTemporary;
    std::error_code error;
    if (ours && fs::remove(file, error)) ++removed;
  });
  return removed;
}

}  // namespace jit

std::string kernel_cache_path() {
  return jit::cache_folder();
}

std::vector<KernelCacheEntry> kernel_cache_entries() {
  return jit::list_entries(jit::cache_folder());
}

std::size_t clear_kernel_cache(bool damaged_only) {
  return jit::remove_entries(jit::cache_folder(), damaged_only);
}

}  // namespace tilewright
