// SPDX-License-Identifier: Apache-2.0
// Processes that want one kernel compile it once: the first one locks its entry of the cache, the
// others wait and read what it stored. It only ever saves time: without the lock, each compiles.
#pragma once

#include <chrono>
#include <string>

#include "jit/digest.h"

namespace tilewright::jit {

// Longer than any kernel takes to compile: who waits for so long waits for a process that hangs.
inline constexpr std::chrono::seconds kMostWait{60};

// The file in a cache's folder that processes lock bytes of. It stays: one that removed it after
// its kernel would take it from under those that wait.
inline constexpr const char* kLockFile = "compiling.lock";

// One byte of one file in the folder, whose place is the entry's digest: nothing is left to be
// cleaned up, and the system gives the lock back when a process ends, however it ends. Not held
// where the folder cannot be written, or after `most`.
class EntryLock {
 public:
  EntryLock(const std::string& folder, const Digest& entry,
            std::chrono::milliseconds most = kMostWait);
  EntryLock(const EntryLock&) = delete;
  EntryLock& operator=(const EntryLock&) = delete;
  ~EntryLock();

  bool held() const { return held_; }
  bool waited() const { return waited_; }  // another process had it

 private:
  bool set(short type) const;

  int file_;
  long long place_;
  bool held_ = false;
  bool waited_ = false;
};

}  // namespace tilewright::jit
