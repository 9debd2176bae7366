// SPDX-License-Identifier: Apache-2.0
// Puts the test double of libcuda.so.1 in front of any real driver.
#pragma once

#include <dlfcn.h>

#include <stdexcept>

#include "support/fake_cuda.h"

namespace tilewright::test {

// What the test double records. Opened at the first call: the library, which asks for libcuda.so.1
// by its name, then finds it open. To be called before the library uses CUDA.
inline FakeCuda& fake_cuda() {
  static FakeCuda* const instance = [] {
    void* library = dlopen(TILEWRIGHT_FAKE_CUDA, RTLD_NOW | RTLD_GLOBAL);
    if (library == nullptr) throw std::runtime_error(dlerror());
    return reinterpret_cast<FakeCuda* (*)()>(dlsym(library, "fake_cuda_state"))();
  }();
  return *instance;
}

}  // namespace tilewright::test
