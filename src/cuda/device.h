// SPDX-License-Identifier: Apache-2.0
// The GPUs: what they are, and their primary contexts, which are shared with PyTorch and all others
// that use the run time API in this process.
#pragma once

#include <string>

#include "cuda/driver.h"

namespace tilewright::cuda {

struct Device {
  int index = 0;
  int handle = 0;  // CUdevice
  std::string name;
  int major = 0, minor = 0;  // compute capability
  int num_sms = 0;
  int l2_bytes = 0;
  int shared_bytes_per_block = 0;  // the most that a kernel may opt in to
  int shared_bytes_per_sm = 0;
  std::size_t memory_bytes = 0;
  // What kernels are compiled for: "sm_80", or "sm_90a" on Hopper, whose own instructions need it.
  std::string arch;
  // Null unless retained: device() retains it, describe_device() does not.
  ContextObject* context = nullptr;

  // Launches can overlap the end of their predecessor.
  bool has_programmatic_launch() const { return major >= 9; }
};

// How many GPUs this process sees; 0 where driver() raises an Error.
int device_count();

// What a GPU is, without a context on it. Error (invalid_argument) for an index out of range.
Device describe_device(int index);

// A GPU with its primary context, which is retained at the first call and never released. The same
// object for the same index, for the life of the process; thread-safe, and cheap after the first
// call.
const Device& device(int index);

// Makes a GPU's context the current one of this thread, until the end of the scope. Costs one
// driver call where it is current already.
class ContextScope {
 public:
  explicit ContextScope(const Device& device);
  explicit ContextScope(int index) : ContextScope(device(index)) {}
  ContextScope(const ContextScope&) = delete;
  ContextScope& operator=(const ContextScope&) = delete;
  ~ContextScope();

 private:
  const Driver* pushed_on_ = nullptr;
};

}  // namespace tilewright::cuda
