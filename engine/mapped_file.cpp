// SPDX-License-Identifier: Apache-2.0
#include "engine/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "engine/checks.h"

namespace tilewright::engine {
namespace {

struct FileDescriptor {
  int value;
  ~FileDescriptor() {
    if (value >= 0) ::close(value);
  }
};

}  // namespace

MappedFile::MappedFile(const std::string& path) {
  const FileDescriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
  require(file.value >= 0, "{}: cannot be opened: {}", path, std::strerror(errno));
  struct stat status {};
  require(::fstat(file.value, &status) == 0, "{}: cannot be examined: {}", path,
          std::strerror(errno));
  require(S_ISREG(status.st_mode), "{}: must be a regular file", path);
  if (status.st_size == 0) return;
  const auto size = static_cast<std::size_t>(status.st_size);
  void* address = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.value, 0);
  require(address != MAP_FAILED, "{}: cannot be mapped: {}", path, std::strerror(errno));
  bytes_ = {static_cast<const std::byte*>(address), size};
}

MappedFile::~MappedFile() {
  if (!bytes_.empty()) ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

}  // namespace tilewright::engine
