// SPDX-License-Identifier: Apache-2.0
#include "jit/kernel_handle.h"

#include <map>
#include <utility>

#include "jit/kernel_store.h"

namespace tilewright::jit {

// Modules stay loaded: they are few, and work that uses them may still be queued.
struct KernelHandle::Registry {
  std::mutex mutex;
  std::map<std::pair<int, Digest>, std::unique_ptr<const Loaded>> loaded;
};

KernelHandle::Registry& KernelHandle::registry() {
  static Registry* const instance = new Registry;
  return *instance;
}

KernelHandle::~KernelHandle() = default;

const KernelHandle::Loaded& KernelHandle::load(int device) const {
  const cuda::Device& gpu = cuda::device(device);
  const Obtained obtained = obtain_to_run(source_, gpu.arch);
  const auto key = std::pair(device, digest_of(source_, gpu.arch));
  Registry& all = registry();
  // One at a time: the driver would do the same.
  const std::lock_guard lock(all.mutex);
  std::unique_ptr<const Loaded>& slot = all.loaded[key];
  if (slot == nullptr) {
    auto made = std::make_unique<Loaded>();
    made->module = std::make_unique<cuda::Module>(gpu, obtained.binary->cubin.data(), source_.name);
    made->names = source_.entries;
    for (const std::string& name : made->names) {
      made->kernels.push_back(made->module->kernel(name.c_str()));
      if (source_.shared_bytes > 0) made->kernels.back().allow_shared_bytes(source_.shared_bytes);
      if (source_.large_clusters) made->kernels.back().allow_large_clusters();
    }
    slot = std::move(made);
  }
  slots_[static_cast<std::size_t>(device)].store(slot.get(), std::memory_order_release);
  return *slot;
}

}  // namespace tilewright::jit
