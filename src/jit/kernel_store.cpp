// SPDX-License-Identifier: Apache-2.0
#include "jit/kernel_store.h"

#include <future>
#include <map>
#include <mutex>
#include <optional>
#include <utility>

#include "jit/compile.h"
#include "jit/disk_cache.h"
#include "jit/entry_lock.h"
#include "jit/nvrtc.h"

namespace tilewright::jit {
namespace {

using Shared = std::shared_ptr<const Binary>;

struct State {
  std::mutex mutex;
  std::map<Digest, Shared> known;   // by digest_of(source, arch)
  std::map<Digest, Shared> packed;  // those of packs, which are known too
  std::map<Digest, std::shared_future<Obtained>> under_way;
};

State& state() {
  static State* const instance = new State;
  return *instance;
}

Obtained load_or_compile(const KernelSource& source, const std::string& arch,
                         const Digest& digest) {
  const std::string compiler = find_nvrtc().version();
  const auto load = [&] { return load_entry(digest, compiler); };
  const bool is_new = !has_entry(digest, compiler);
  std::optional<Binary> entry = is_new ? std::nullopt : load();
  if (!entry) {
    // A damaged one is looked at again only where another process may have mended it.
    const EntryLock lock(cache_folder(), digest);
    if (is_new || lock.waited()) entry = load();
    if (!entry) {
      auto compiled = std::make_shared<const Binary>(compile(source, arch));
      store_entry(*compiled);
      return {std::move(compiled), false};
    }
  }
  return {std::make_shared<const Binary>(*std::move(entry)), true};
}

}  // namespace

std::vector<std::string> compatible_archs(const std::string& arch) {
  // Code of a lower minor version runs, unless it is of the architecture's own instructions ("a").
  std::vector<std::string> out{arch};
  if (arch.size() < 5 || arch.back() < '0' || arch.back() > '9') return out;
  for (char minor = arch.back(); minor-- > '0';) {
    out.push_back(arch.substr(0, arch.size() - 1) + minor);
  }
  return out;
}

Obtained obtain(const KernelSource& source, const std::string& arch) {
  State& s = state();
  const Digest digest = digest_of(source, arch);
  std::promise<Obtained> promise;
  std::shared_future<Obtained> other;
  {
    const std::lock_guard lock(s.mutex);
    if (const auto found = s.known.find(digest); found != s.known.end()) {
      return {found->second, true};
    }
    if (const auto found = s.under_way.find(digest); found != s.under_way.end()) {
      other = found->second;
    } else {
      s.under_way.emplace(digest, promise.get_future().share());
    }
  }
  if (other.valid()) return other.get();
  Obtained obtained;
  try {
    obtained = load_or_compile(source, arch, digest);
  } catch (...) {
    const std::lock_guard lock(s.mutex);
    s.under_way.erase(digest);
    promise.set_exception(std::current_exception());
    throw;
  }
  const std::lock_guard lock(s.mutex);
  s.known.emplace(digest, obtained.binary);
  s.under_way.erase(digest);
  promise.set_value(obtained);
  return obtained;
}

Obtained obtain_to_run(const KernelSource& source, const std::string& arch) {
  State& s = state();
  {
    const std::lock_guard lock(s.mutex);
    const std::vector<std::string> archs = compatible_archs(arch);
    if (!s.packed.empty() && !s.known.contains(digest_of(source, arch))) {
      for (std::size_t i = 1; i < archs.size(); ++i) {
        const auto found = s.packed.find(digest_of(source, archs[i]));
        if (found != s.packed.end()) return {found->second, true};
      }
    }
  }
  return obtain(source, arch);
}

void add_binaries(std::vector<Binary> binaries) {
  const std::lock_guard lock(state().mutex);
  for (Binary& binary : binaries) {
    const Digest digest = binary.source;
    const auto shared = std::make_shared<const Binary>(std::move(binary));
    state().known.insert_or_assign(digest, shared);
    state().packed.insert_or_assign(digest, shared);
  }
}

}  // namespace tilewright::jit
