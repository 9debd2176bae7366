// SPDX-License-Identifier: Apache-2.0
#include "cuda/device.h"

#include <tilewright/jit.h>

#include <array>
#include <atomic>
#include <memory>
#include <mutex>
#include <utility>

#include "base/checks.h"
#include "base/environment.h"

namespace tilewright {
namespace cuda {
namespace {

// CUdevice_attribute.
enum Attribute : int {
  kMultiprocessorCount = 16,
  kL2CacheSize = 38,
  kComputeCapabilityMajor = 75,
  kComputeCapabilityMinor = 76,
  kSharedMemoryPerMultiprocessor = 81,
  kSharedMemoryPerBlockOptin = 97,
};

constexpr int kMaxDevices = 64;

struct Devices {
  std::mutex mutex;
  std::array<std::atomic<const Device*>, kMaxDevices> slots{};
};

// Never destroyed, nor are the contexts released: destructors of other static objects may still
// need them.
Devices& devices() {
  static Devices* const instance = new Devices;
  return *instance;
}

}  // namespace

int device_count() {
  const Driver* api = find_driver();
  int count = 0;
  return api != nullptr && api->device_get_count(&count) == kSuccess ? count : 0;
}

Device describe_device(int index) {
  const Driver& api = driver();
  int count = 0;
  check(api, api.device_get_count(&count), "cuDeviceGetCount");
  require(index >= 0 && index < count, "device is cuda:{}: this process sees {} GPUs", index,
          count);
  Device out;
  out.index = index;
  check(api, api.device_get(&out.handle, index), "cuDeviceGet");
  std::array<char, 256> name{};
  check(api, api.device_get_name(name.data(), static_cast<int>(name.size()) - 1, out.handle),
        "cuDeviceGetName");
  out.name = name.data();
  for (const auto& [attribute, value] :
       {std::pair{kComputeCapabilityMajor, &out.major},
        std::pair{kComputeCapabilityMinor, &out.minor},
        std::pair{kMultiprocessorCount, &out.num_sms}, std::pair{kL2CacheSize, &out.l2_bytes},
        std::pair{kSharedMemoryPerBlockOptin, &out.shared_bytes_per_block},
        std::pair{kSharedMemoryPerMultiprocessor, &out.shared_bytes_per_sm}}) {
    check(api, api.device_get_attribute(value, attribute, out.handle), "cuDeviceGetAttribute");
  }
  check(api, api.device_total_mem(&out.memory_bytes, out.handle), "cuDeviceTotalMem");
  const bool own_instructions = out.major == 9 && !environment_asks("TILEWRIGHT_PORTABLE");
  out.arch = fmt::format("sm_{}{}{}", out.major, out.minor, own_instructions ? "a" : "");
  return out;
}

const Device& device(int index) {
  const Driver& api = driver();  // also checks that the process was not forked
  require(index >= 0 && index < kMaxDevices, "device is cuda:{}: the index must be in [0, {})",
          index, kMaxDevices);
  Devices& all = devices();
  std::atomic<const Device*>& slot = all.slots[static_cast<std::size_t>(index)];
  if (const Device* known = slot.load(std::memory_order_acquire); known != nullptr) [[likely]] {
    return *known;
  }
  const std::lock_guard lock(all.mutex);
  if (const Device* known = slot.load(); known != nullptr) return *known;
  auto made = std::make_unique<Device>(describe_device(index));
  if (made->major < 8) {
    raise(ErrorCode::not_supported,
          "device is cuda:{}, {} of compute capability {}.{}: Ampere (8.0) or newer is needed",
          index, made->name, made->major, made->minor);
  }
  check(api, api.device_primary_ctx_retain(&made->context, made->handle),
        "cuDevicePrimaryCtxRetain");
  slot.store(made.get(), std::memory_order_release);
  return *made.release();
}

ContextScope::ContextScope(const Device& device) {
  const Driver& api = driver();
  ContextObject* current = nullptr;
  check(api, api.ctx_get_current(&current), "cuCtxGetCurrent");
  if (current == device.context) return;
  check(api, api.ctx_push_current(device.context), "cuCtxPushCurrent");
  pushed_on_ = &api;
}

ContextScope::~ContextScope() {
  ContextObject* popped = nullptr;
  if (pushed_on_ != nullptr) pushed_on_->ctx_pop_current(&popped);
}

}  // namespace cuda

CudaInfo cuda_info() {
  const cuda::Driver& api = cuda::driver();
  CudaInfo out;
  out.driver_path = api.path;
  out.driver_major = api.version / 1000;
  out.driver_minor = api.version % 1000 / 10;
  for (int i = 0; i < cuda::device_count(); ++i) {
    const cuda::Device device = cuda::describe_device(i);
    out.devices.push_back({i, device.name, device.arch, device.num_sms, device.memory_bytes});
  }
  return out;
}

}  // namespace tilewright
