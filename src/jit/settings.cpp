// SPDX-License-Identifier: Apache-2.0
#include "jit/settings.h"

#include <cstdlib>
#include <mutex>
#include <set>
#include <utility>

namespace tilewright {
namespace jit {
namespace {

struct State {
  std::mutex mutex;
  Settings settings;
  std::set<std::string> kinds;  // of troubles that were told of
  std::function<void(const std::string&)> handler;
};

State& state() {
  static State* const instance = new State;
  return *instance;
}

}  // namespace

Settings settings() {
  Settings out;
  {
    const std::lock_guard lock(state().mutex);
    out = state().settings;
  }
  if (out.nvrtc_path.empty()) {
    const char* path = std::getenv("TILEWRIGHT_NVRTC");
    if (path != nullptr) out.nvrtc_path = path;
  }
  return out;
}

void warn(const std::string& message) {
  std::function<void(const std::string&)> handler;
  {
    const std::lock_guard lock(state().mutex);
    handler = state().handler;
  }
  // Without the lock: a handler may wait for one of its own (Python's), whose holder is here too.
  if (handler) handler(message);
}

void warn_once(const std::string& kind, const std::string& message) {
  {
    const std::lock_guard lock(state().mutex);
    if (!state().kinds.insert(kind).second) return;
  }
  warn(message);
}

}  // namespace jit

void set_warning_handler(std::function<void(const std::string& message)> handler) {
  const std::lock_guard lock(jit::state().mutex);
  jit::state().handler = std::move(handler);
}

void set_nvrtc_path(const std::string& path) {
  const std::lock_guard lock(jit::state().mutex);
  jit::state().settings.nvrtc_path = path;
  ++jit::state().settings.nvrtc_changes;
}

void set_python_folders(const std::vector<std::string>& folders) {
  const std::lock_guard lock(jit::state().mutex);
  jit::state().settings.python_folders = folders;
  ++jit::state().settings.nvrtc_changes;
}

void set_kernel_cache_path(const std::string& folder) {
  const std::lock_guard lock(jit::state().mutex);
  jit::state().settings.cache_folder = folder;
}

}  // namespace tilewright
