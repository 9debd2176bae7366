// SPDX-License-Identifier: Apache-2.0
// Compiled code on a GPU, and launches of it.
#pragma once

#include <cstddef>
#include <string>
#include <type_traits>

#include "cuda/device.h"

namespace tilewright::cuda {

// When a kernel starts: when its predecessor on the stream has ended; or before, and it waits for
// it by itself. GPUs before Hopper know the first only.
enum class KernelStart { in_turn, early };

struct LaunchShape {
  unsigned grid = 1;          // blocks; a launch of 0 blocks does nothing
  unsigned block = 1;         // threads a block
  unsigned shared_bytes = 0;  // dynamic shared memory a block
  // Blocks that run side by side, of which the grid is a multiple; 0 for a kernel that knows
  // nothing of clusters.
  unsigned cluster = 0;
  KernelStart start = KernelStart::in_turn;
};

// A function of a Module: cheap to copy, valid as long as the module. Its parameters are one
// struct, passed by value.
class Kernel {
 public:
  Kernel() = default;

  // Launches on the GPU of the module, whatever context is current. Error (invalid_argument) when
  // the struct is not of the size that the kernel was compiled with, device_error when the driver
  // refuses.
  template <typename Params>
  void launch(const LaunchShape& shape, Stream stream, const Params& params) const {
    static_assert(std::is_trivially_copyable_v<Params>);
    launch_bytes(shape, stream, &params, sizeof(Params));
  }
  // The same, with a struct whose size is only known at run time.
  void launch_bytes(const LaunchShape& shape, Stream stream, const void* params,
                    std::size_t bytes) const;

  explicit operator bool() const { return function_ != nullptr; }
  const Device& device() const { return *device_; }
  const char* name() const { return name_; }

  // Lets launches take up to this much dynamic shared memory: needed above 48 KiB.
  void allow_shared_bytes(int bytes) const;
  // Lets launches have clusters of up to 16 blocks, where the GPU has room for them: needed
  // above 8.
  void allow_large_clusters() const;
  int registers() const;     // a thread
  int local_bytes() const;   // a thread: stack and spills
  int shared_bytes() const;  // static, a block
  // Blocks of a launch that one SM holds at a time.
  int blocks_per_sm(int block, std::size_t shared_bytes) const;
  // Clusters of a launch that the GPU holds at a time; shape.grid does not matter.
  int resident_clusters(const LaunchShape& shape) const;

 private:
  friend class Module;

  int attribute(int which) const;

  const Device* device_ = nullptr;
  FunctionObject* function_ = nullptr;
  const char* name_ = "";
  std::size_t params_bytes_ = 0;  // 0: the driver does not tell
};

// A cubin loaded on one GPU.
class Module {
 public:
  // Error (device_error) when the driver does not take the image.
  Module(const Device& device, const void* cubin, std::string name);
  Module(const Module&) = delete;
  Module& operator=(const Module&) = delete;
  ~Module();

  // `name` must live as long as the kernel.
  Kernel kernel(const char* name) const;

 private:
  const Device* device_;
  std::string name_;
  ModuleObject* module_ = nullptr;
};

}  // namespace tilewright::cuda
