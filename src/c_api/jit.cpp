// SPDX-License-Identifier: Apache-2.0
// Where kernels come from and what is there: NVRTC, GPUs, the cache, packs.
#include <tilewright/c_jit.h>
#include <tilewright/jit.h>

#include <utility>

#include "c_api/handles.h"

using namespace tilewright;
using namespace tilewright::c_api;

// NOLINTNEXTLINE(readability-identifier-naming)
struct tw_kernel_cache {
  std::vector<KernelCacheEntry> entries;
};

tw_status tw_set_warning_handler(void (*handler)(const char* message, void* context),
                                 void* context) {
  return guarded([&] {
    if (handler == nullptr) {
      set_warning_handler(nullptr);
      return;
    }
    set_warning_handler(
        [handler, context](const std::string& message) { handler(message.c_str(), context); });
  });
}

tw_status tw_set_nvrtc_path(const char* path) {
  return guarded([&] { set_nvrtc_path(&required("path", path)); });
}

tw_status tw_set_python_folders(const char* const* folders, size_t num_folders) {
  return guarded([&] { set_python_folders(read_strings("folders", folders, num_folders)); });
}

tw_status tw_get_nvrtc_info(tw_nvrtc_info* info) {
  return guarded([&] {
    required("info", info);
    thread_local NvrtcInfo found;
    found = nvrtc_info();
    tw_nvrtc_info result{};
    result.path = found.path.c_str();
    result.major = found.major;
    result.minor = found.minor;
    write_struct("info", info, result);
  });
}

tw_status tw_get_cuda_info(tw_cuda_info* info) {
  return guarded([&] {
    required("info", info);
    thread_local CudaInfo found;
    found = cuda_info();
    tw_cuda_info result{};
    result.driver_path = found.driver_path.c_str();
    result.driver_major = found.driver_major;
    result.driver_minor = found.driver_minor;
    result.num_devices = found.devices.size();
    write_struct("info", info, result);
  });
}

tw_status tw_get_cuda_device(size_t index, tw_cuda_device* device) {
  return guarded([&] {
    required("device", device);
    std::vector<CudaDevice> devices = cuda_info().devices;
    check_index("index", index, devices.size(), "GPUs");
    thread_local CudaDevice found;
    found = std::move(devices[index]);
    tw_cuda_device result{};
    result.name = found.name.c_str();
    result.arch = found.arch.c_str();
    result.memory_bytes = found.memory_bytes;
    result.index = found.index;
    result.num_sms = found.num_sms;
    write_struct("device", device, result);
  });
}

tw_status tw_kernel_cache_path(const char** path) {
  return guarded([&] {
    required("path", path);
    thread_local std::string text;
    text = kernel_cache_path();
    *path = text.c_str();
  });
}

tw_status tw_set_kernel_cache_path(const char* folder) {
  return guarded([&] { set_kernel_cache_path(&required("folder", folder)); });
}

tw_status tw_kernel_cache_read(tw_kernel_cache** cache) {
  return guarded([&] { hand_out("cache", cache, tw_kernel_cache{kernel_cache_entries()}); });
}

tw_status tw_kernel_cache_count(const tw_kernel_cache* cache, size_t* count) {
  return guarded([&] { required("count", count) = required("cache", cache).entries.size(); });
}

tw_status tw_kernel_cache_get(const tw_kernel_cache* cache, size_t index,
                              tw_kernel_cache_entry* entry) {
  return guarded([&] {
    const std::vector<KernelCacheEntry>& entries = required("cache", cache).entries;
    check_index("index", index, entries.size(), "entries");
    const KernelCacheEntry& found = entries[index];
    tw_kernel_cache_entry result{};
    result.file = found.file.c_str();
    result.kernel = found.kernel.c_str();
    result.arch = found.arch.c_str();
    result.compiler = found.compiler.c_str();
    result.seconds = found.seconds;
    result.bytes = found.bytes;
    result.damage = found.damage.c_str();
    write_struct("entry", entry, result);
  });
}

void tw_kernel_cache_destroy(tw_kernel_cache* cache) {
  give_back(cache);
}

tw_status tw_clear_kernel_cache(int32_t damaged_only, size_t* removed) {
  return guarded([&] {
    const std::size_t count = clear_kernel_cache(read_flag("damaged_only", damaged_only));
    if (removed != nullptr) *removed = count;
  });
}

tw_status tw_load_kernel_pack(const char* path, size_t* kernels) {
  return guarded([&] {
    const std::size_t count = load_kernel_pack(&required("path", path));
    if (kernels != nullptr) *kernels = count;
  });
}
