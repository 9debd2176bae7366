// SPDX-License-Identifier: Apache-2.0
#include "cuda/kernel.h"

#include <utility>

#include "base/checks.h"

namespace tilewright::cuda {
namespace {

// CUfunction_attribute.
enum Attribute : int {
  kSharedSizeBytes = 1,
  kLocalSizeBytes = 3,
  kNumRegs = 4,
  kMaxDynamicSharedSizeBytes = 8,
  kNonPortableClusterSizeAllowed = 14,
};

// What the driver is told of a launch; it points to itself.
struct Launch {
  LaunchAttribute attributes[2];
  LaunchConfig config;

  Launch(const LaunchShape& shape, bool programmatic) {
    config.attributes = attributes;
    config.grid_x = shape.grid;
    config.block_x = shape.block;
    config.shared_bytes = shape.shared_bytes;
    if (programmatic) {
      LaunchAttribute& overlap = attributes[config.num_attributes++];
      overlap.id = LaunchAttribute::kProgrammaticStreamSerialization;
      overlap.value.flag = 1;
    }
    if (shape.cluster > 0) {
      LaunchAttribute& cluster = attributes[config.num_attributes++];
      cluster.id = LaunchAttribute::kClusterDimension;
      cluster.value.cluster[0] = shape.cluster;
      cluster.value.cluster[1] = cluster.value.cluster[2] = 1;
    }
  }
  Launch(const Launch&) = delete;
  Launch& operator=(const Launch&) = delete;
};

// Of the struct that is the only parameter; 0 where the driver is too old to tell.
std::size_t params_bytes_of(const Driver& api, FunctionObject* function) {
  std::size_t offset = 0, bytes = 0;
  if (api.func_get_param_info == nullptr) return 0;
  return api.func_get_param_info(function, 0, &offset, &bytes) == kSuccess ? bytes : 0;
}

}  // namespace

Module::Module(const Device& device, const void* cubin, std::string name)
    : device_(&device), name_(std::move(name)) {
  const Driver& api = driver();
  const ContextScope scope(device);
  if (const Result result = api.module_load_data(&module_, cubin); result != kSuccess) {
    raise_driver_error(api, result,
                       fmt::format("cuModuleLoadData of kernel {} for {} on cuda:{}", name_,
                                   device.arch, device.index));
  }
}

Module::~Module() {
  try {
    const ContextScope scope(*device_);
    driver().module_unload(module_);
  } catch (
      const Error&) {  // NOLINT(bugprone-empty-catch): the context is gone, and the module with it
  }
}

Kernel Module::kernel(const char* name) const {
  const Driver& api = driver();
  const ContextScope scope(*device_);
  Kernel out;
  out.device_ = device_;
  out.name_ = name;
  if (const Result result = api.module_get_function(&out.function_, module_, name);
      result != kSuccess) {
    raise_driver_error(api, result,
                       fmt::format("cuModuleGetFunction of {} in kernel {}", name, name_));
  }
  out.params_bytes_ = params_bytes_of(api, out.function_);
  return out;
}

void Kernel::launch_bytes(const LaunchShape& shape, Stream stream, const void* params,
                          std::size_t bytes) const {
  if (params_bytes_ != 0 && params_bytes_ != bytes) [[unlikely]] {
    raise(ErrorCode::internal, "kernel {} takes {} bytes of parameters: {} were given", name_,
          params_bytes_, bytes);
  }
  if (shape.grid == 0) return;
  const Driver& api = driver();
  const ContextScope scope(*device_);
  Launch launch(shape, shape.start == KernelStart::early && device_->has_programmatic_launch());
  launch.config.stream = handle_of(stream);
  void* list[] = {const_cast<void*>(params)};
  if (const Result result = api.launch_kernel_ex(&launch.config, function_, list, nullptr);
      result != kSuccess) [[unlikely]] {
    raise_driver_error(
        api, result,
        fmt::format("cuLaunchKernelEx of {} ({} blocks of {} threads, {} bytes of shared memory) "
                    "on cuda:{}",
                    name_, shape.grid, shape.block, shape.shared_bytes, device_->index));
  }
}

void Kernel::allow_shared_bytes(int bytes) const {
  const Driver& api = driver();
  const ContextScope scope(*device_);
  if (const Result result = api.func_set_attribute(function_, kMaxDynamicSharedSizeBytes, bytes);
      result != kSuccess) {
    raise_driver_error(
        api, result,
        fmt::format(
            "cuFuncSetAttribute: {} bytes of shared memory for {}, of at most {} on cuda:{},",
            bytes, name_, device_->shared_bytes_per_block, device_->index));
  }
}

void Kernel::allow_large_clusters() const {
  const Driver& api = driver();
  const ContextScope scope(*device_);
  check(api, api.func_set_attribute(function_, kNonPortableClusterSizeAllowed, 1),
        "cuFuncSetAttribute: clusters of more than 8 blocks");
}

int Kernel::attribute(int which) const {
  const Driver& api = driver();
  const ContextScope scope(*device_);
  int value = 0;
  check(api, api.func_get_attribute(&value, which, function_), "cuFuncGetAttribute");
  return value;
}

int Kernel::registers() const {
  return attribute(kNumRegs);
}
int Kernel::local_bytes() const {
  return attribute(kLocalSizeBytes);
}
int Kernel::shared_bytes() const {
  return attribute(kSharedSizeBytes);
}

int Kernel::blocks_per_sm(int block, std::size_t shared_bytes) const {
  const Driver& api = driver();
  const ContextScope scope(*device_);
  int blocks = 0;
  check(api, api.occupancy_max_active_blocks(&blocks, function_, block, shared_bytes),
        "cuOccupancyMaxActiveBlocksPerMultiprocessor");
  return blocks;
}

int Kernel::resident_clusters(const LaunchShape& shape) const {
  const Driver& api = driver();
  const ContextScope scope(*device_);
  LaunchShape one = shape;
  one.grid = shape.cluster;
  const Launch launch(one, false);
  int clusters = 0;
  check(api, api.occupancy_max_active_clusters(&clusters, function_, &launch.config),
        "cuOccupancyMaxActiveClusters");
  return clusters;
}

}  // namespace tilewright::cuda
