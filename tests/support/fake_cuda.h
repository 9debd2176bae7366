// SPDX-License-Identifier: Apache-2.0
// What the test double of libcuda.so.1 (fake_cuda.cpp) records. Device memory is host memory,
// copies happen at once, launches do nothing but being written down.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace tilewright::test {

struct FakeLaunch {
  std::string kernel;
  int device = 0;  // whose context was current
  unsigned grid = 0, block = 0, shared_bytes = 0;
  void* stream = nullptr;
  bool programmatic = false;
  int cluster = 0;     // 0: the launch did not say
  std::string params;  // bytes of the one parameter; as many as the cubin says
};

struct FakeCuda {
  // What the next calls find; set before the library uses the driver.
  int driver_version = 13000;
  int devices = 2;
  int major = 9, minor = 0;
  // Calls that fail: name -> result.
  std::map<std::string, int> failures;

  // What happened.
  std::map<std::string, int> calls;  // by name
  std::vector<FakeLaunch> launches;
  int contexts_on_stack = 0;
  std::size_t bytes_allocated = 0;  // and not freed
  int modules = 0;                  // and not unloaded
};

}  // namespace tilewright::test
