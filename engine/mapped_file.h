// SPDX-License-Identifier: Apache-2.0
// A whole file mapped read-only into memory.
#pragma once

#include <cstddef>
#include <span>
#include <string>

namespace tilewright::engine {

class MappedFile {
 public:
  // Error when the path is missing, unreadable or no regular file. The file must not be shortened
  // while it is mapped (the system answers reads past its end with SIGBUS).
  explicit MappedFile(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const { return bytes_; }

 private:
  std::span<const std::byte> bytes_;
};

}  // namespace tilewright::engine
