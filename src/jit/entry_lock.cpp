// SPDX-License-Identifier: Apache-2.0
#include "jit/entry_lock.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <limits>
#include <thread>

namespace tilewright::jit {
namespace {

constexpr std::chrono::milliseconds kBetweenTries{10};

int open_locks(const std::string& folder) {
  if (folder.empty()) return -1;
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  const std::filesystem::path file = std::filesystem::path(folder) / kLockFile;
  return ::open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
}

}  // namespace

EntryLock::EntryLock(const std::string& folder, const Digest& entry, std::chrono::milliseconds most)
    : file_(open_locks(folder)),
      // Any place may be locked, also behind the end. Two entries in one place only wait in vain.
      place_(static_cast<long long>(std::strtoull(entry.hex().substr(0, 16).c_str(), nullptr, 16) %
                                    std::numeric_limits<long long>::max())) {
  if (file_ < 0) return;
  const auto end = std::chrono::steady_clock::now() + most;
  while (!(held_ = set(F_WRLCK))) {
    if (errno != EAGAIN && errno != EACCES && errno != EINTR) return;
    waited_ = true;
    if (std::chrono::steady_clock::now() >= end) return;
    std::this_thread::sleep_for(kBetweenTries);
  }
}

EntryLock::~EntryLock() {
  // Not left to close(): a child that was forked meanwhile has the file, too.
  if (held_) set(F_UNLCK);
  if (file_ >= 0) ::close(file_);
}

// Locks of the open file: other locks of this process do not share them.
bool EntryLock::set(short type) const {
  struct flock range {};
  range.l_type = type;
  range.l_whence = SEEK_SET;
  range.l_start = place_;
  range.l_len = 1;
  return ::fcntl(file_, F_OFD_SETLK, &range) == 0;
}

}  // namespace tilewright::jit
