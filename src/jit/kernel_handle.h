// SPDX-License-Identifier: Apache-2.0
// What front ends keep of a kernel: found on a GPU by one atomic load, once it is there.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <memory>
#include <mutex>
#include <vector>

#include "cuda/kernel.h"
#include "jit/kernel_source.h"

namespace tilewright::jit {

// A kernel's source on one or several GPUs. Thread-safe; cheap to make: nothing happens before it
// is asked for.
class KernelHandle {
 public:
  static constexpr int kMaxDevices = 64;

  explicit KernelHandle(KernelSource source) : source_(std::move(source)) {}
  KernelHandle(const KernelHandle&) = delete;
  KernelHandle& operator=(const KernelHandle&) = delete;
  ~KernelHandle();

  const KernelSource& source() const { return source_; }

  // The entry point source().entries[entry] on a GPU. The first call there obtains, loads and
  // readies it (Errors of obtain() and cuda::Module); later ones are one load. Handles of equal
  // sources share what they load.
  const cuda::Kernel& on(int device, std::size_t entry = 0) const {
    if (device >= 0 && device < kMaxDevices) [[likely]] {
      const Loaded* loaded =
          slots_[static_cast<std::size_t>(device)].load(std::memory_order_acquire);
      if (loaded != nullptr) [[likely]] {
        return loaded->kernels[entry];
      }
    }
    return load(device).kernels[entry];
  }

 private:
  struct Loaded {
    std::unique_ptr<cuda::Module> module;
    std::vector<cuda::Kernel> kernels;  // of source().entries
    std::vector<std::string> names;
  };
  struct Registry;

  static Registry& registry();
  const Loaded& load(int device) const;

  KernelSource source_;
  mutable std::array<std::atomic<const Loaded*>, kMaxDevices> slots_{};
};

}  // namespace tilewright::jit
