// SPDX-License-Identifier: Apache-2.0
#include "cuda/driver.h"

#include <dlfcn.h>
#include <pthread.h>

#include <atomic>
#include <mutex>
#include <optional>

#include "base/checks.h"

namespace tilewright::cuda {
namespace {

constexpr const char* kInstall =
    "install NVIDIA's driver (`nvidia-smi` then works), and start containers with access to the "
    "GPUs "
    "(docker run --gpus all)";
constexpr const char* kForked =
    "CUDA cannot be used in a process that was forked after its parent had used it: start such "
    "processes anew (Python: multiprocessing.set_start_method(\"spawn\")), or fork before CUDA is "
    "used first";

template <typename Function>
bool find_symbol(void* library, const char* name, Function*& function) {
  function = reinterpret_cast<Function*>(dlsym(library, name));
  return function != nullptr;
}

// The plain names take the legacy default stream for a null stream, as the caller's cudaStream_t 0
// does.
void resolve(void* library, Driver& d) {
  std::string missing;
  const auto need = [&](const char* name, auto& function) {
    if (!find_symbol(library, name, function) && missing.empty()) missing = name;
  };
  need("cuInit", d.init);
  need("cuDriverGetVersion", d.driver_get_version);
  need("cuGetErrorName", d.get_error_name);
  need("cuGetErrorString", d.get_error_string);
  need("cuDeviceGetCount", d.device_get_count);
  need("cuDeviceGet", d.device_get);
  need("cuDeviceGetName", d.device_get_name);
  need("cuDeviceGetAttribute", d.device_get_attribute);
  need("cuDeviceTotalMem_v2", d.device_total_mem);
  need("cuDevicePrimaryCtxRetain", d.device_primary_ctx_retain);
  need("cuCtxGetCurrent", d.ctx_get_current);
  need("cuCtxPushCurrent_v2", d.ctx_push_current);
  need("cuCtxPopCurrent_v2", d.ctx_pop_current);
  need("cuMemAlloc_v2", d.mem_alloc);
  need("cuMemFree_v2", d.mem_free);
  need("cuMemHostAlloc", d.mem_host_alloc);
  need("cuMemFreeHost", d.mem_free_host);
  need("cuPointerGetAttribute", d.pointer_get_attribute);
  need("cuMemsetD8Async", d.memset_d8_async);
  need("cuMemsetD32Async", d.memset_d32_async);
  need("cuMemcpyHtoDAsync_v2", d.memcpy_htod_async);
  need("cuMemcpyDtoHAsync_v2", d.memcpy_dtoh_async);
  need("cuMemcpyDtoDAsync_v2", d.memcpy_dtod_async);
  need("cuStreamCreate", d.stream_create);
  need("cuStreamDestroy_v2", d.stream_destroy);
  need("cuStreamSynchronize", d.stream_synchronize);
  need("cuStreamWaitEvent", d.stream_wait_event);
  need("cuStreamIsCapturing", d.stream_is_capturing);
  need("cuStreamBeginCapture_v2", d.stream_begin_capture);
  need("cuStreamEndCapture", d.stream_end_capture);
  need("cuGraphInstantiateWithFlags", d.graph_instantiate);
  need("cuGraphLaunch", d.graph_launch);
  need("cuGraphExecDestroy", d.graph_exec_destroy);
  need("cuGraphDestroy", d.graph_destroy);
  need("cuEventCreate", d.event_create);
  need("cuEventDestroy_v2", d.event_destroy);
  need("cuEventRecord", d.event_record);
  need("cuEventQuery", d.event_query);
  need("cuEventSynchronize", d.event_synchronize);
  need("cuEventElapsedTime", d.event_elapsed_time);
  need("cuTensorMapEncodeTiled", d.tensor_map_encode_tiled);
  need("cuModuleLoadData", d.module_load_data);
  need("cuModuleUnload", d.module_unload);
  need("cuModuleGetFunction", d.module_get_function);
  need("cuFuncGetAttribute", d.func_get_attribute);
  need("cuFuncSetAttribute", d.func_set_attribute);
  need("cuOccupancyMaxActiveBlocksPerMultiprocessor", d.occupancy_max_active_blocks);
  need("cuOccupancyMaxActiveClusters", d.occupancy_max_active_clusters);
  need("cuLaunchKernelEx", d.launch_kernel_ex);
  find_symbol(library, "cuFuncGetParamInfo", d.func_get_param_info);
  if (!missing.empty()) {
    raise(ErrorCode::not_supported,
          "the CUDA driver {} has no function {}: a driver of CUDA 12 or newer is needed; update "
          "NVIDIA's driver",
          d.path, missing);
  }
}

struct State {
  std::mutex mutex;
  std::atomic<const Driver*> ready{nullptr};
  std::atomic<bool> forked{false};
  std::optional<Driver> driver;
};

// Never destroyed: kernels may be launched by destructors of other static objects.
State& state() {
  static State* const instance = new State;
  return *instance;
}

void after_fork_in_child() {
  if (state().ready.load() != nullptr) state().forked.store(true);
}

void initialize(const Driver& api) {
  const Result result = api.init(0);
  if (result == kSuccess) return;
  if (result == kNotInitialized) raise(ErrorCode::invalid_state, "{}", kForked);
  const char* name = "";
  const char* text = "";
  api.get_error_name(result, &name);
  api.get_error_string(result, &text);
  raise(ErrorCode::not_supported, "the CUDA driver {} cannot be used: cuInit says {} ({}); {}",
        api.path, name, text,
        result == kNoDevice ? "no GPU is visible: look at `nvidia-smi` and CUDA_VISIBLE_DEVICES"
                            : kInstall);
}

const std::vector<std::string>& driver_libraries() {
  static const std::vector<std::string> libraries{
      "libcuda.so.1",  // the loader's path
      "/usr/lib/wsl/lib/libcuda.so.1",
      "/run/opengl-driver/lib/libcuda.so.1",
      "/usr/local/nvidia/lib64/libcuda.so.1",
  };
  return libraries;
}

}  // namespace

Driver open_driver(const std::vector<std::string>& libraries) {
  std::string tried;
  for (const std::string& library : libraries) {
    // Never closed: it may be in use by others, and its threads do not end.
    void* handle = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (handle == nullptr) {
      const char* why = dlerror();
      tried += fmt::format("{}{} ({})", tried.empty() ? "" : "; ", library,
                           why != nullptr ? why : "unknown error");
      continue;
    }
    Driver found;
    found.path = library;
    resolve(handle, found);
    Dl_info info{};
    if (dladdr(reinterpret_cast<const void*>(found.init), &info) != 0 &&
        info.dli_fname != nullptr) {
      found.path = info.dli_fname;
    }
    found.driver_get_version(&found.version);
    return found;
  }
  raise(ErrorCode::not_supported,
        "there is no CUDA driver on this machine. Tried: {}. To mend it: {}", tried, kInstall);
}

const Driver& driver() {
  State& s = state();
  if (const Driver* ready = s.ready.load(std::memory_order_acquire); ready != nullptr) [[likely]] {
    if (s.forked.load(std::memory_order_relaxed)) [[unlikely]] {
      raise(ErrorCode::invalid_state, "{}", kForked);
    }
    return *ready;
  }
  const std::lock_guard lock(s.mutex);
  if (const Driver* ready = s.ready.load(); ready != nullptr) return *ready;
  // A failure is not remembered: a GPU may come later, and the next message is as good as the
  // first.
  Driver opened = open_driver(driver_libraries());
  initialize(opened);
  if (!s.driver) pthread_atfork(nullptr, nullptr, after_fork_in_child);
  s.driver = std::move(opened);
  s.ready.store(&*s.driver, std::memory_order_release);
  return *s.driver;
}

const Driver* find_driver(std::string* why) {
  try {
    return &driver();
  } catch (const Error& error) {
    if (why != nullptr) *why = error.what();
    return nullptr;
  }
}

int installed_driver_version() {
  if (const Driver* ready = state().ready.load(std::memory_order_acquire); ready != nullptr) {
    return ready->version;
  }
  try {
    return open_driver(driver_libraries()).version;
  } catch (const Error&) {
    return 0;
  }
}

void raise_driver_error(const Driver& api, Result result, std::string_view call) {
  const char* name = nullptr;
  const char* text = nullptr;
  api.get_error_name(result, &name);
  api.get_error_string(result, &text);
  raise(result == kOutOfMemory ? ErrorCode::out_of_memory : ErrorCode::device_error,
        "CUDA: {} failed: {} ({})", call, name != nullptr ? name : std::to_string(result),
        text != nullptr ? text : "no text");
}

}  // namespace tilewright::cuda
