// SPDX-License-Identifier: Apache-2.0
// The CUDA driver's functions, opened at run time: nothing of CUDA is linked or included, so one
// library serves machines with and without a GPU. Names and layouts are those of libcuda.so.1,
// whose ABI is stable.
#pragma once

#include <tilewright/tensor_view.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace tilewright::cuda {

using Result = int;  // CUresult; 0 is success
using DevicePointer = unsigned long long;

// What the driver's handles point to is its own.
struct ContextObject;
struct ModuleObject;
struct FunctionObject;
struct EventObject;
struct StreamObject;
struct GraphObject;
struct GraphExecObject;
using StreamHandle = StreamObject*;

enum ResultCode : Result {
  kSuccess = 0,
  kOutOfMemory = 2,
  kNotInitialized = 3,
  kNoDevice = 100,
  kNotReady = 600,
};

// CUlaunchAttribute: the union of values is 64 bytes.
struct LaunchAttribute {
  static constexpr int kProgrammaticStreamSerialization = 6;
  static constexpr int kClusterDimension = 4;

  int id = 0;
  int padding = 0;
  union alignas(8) {
    char bytes[64] = {};
    int flag;
    unsigned cluster[3];
  } value;
};
static_assert(sizeof(LaunchAttribute) == 72);

// CUlaunchConfig.
struct LaunchConfig {
  unsigned grid_x = 1, grid_y = 1, grid_z = 1;
  unsigned block_x = 1, block_y = 1, block_z = 1;
  unsigned shared_bytes = 0;
  StreamHandle stream = nullptr;
  LaunchAttribute* attributes = nullptr;
  unsigned num_attributes = 0;
};
static_assert(sizeof(LaunchConfig) == 56);

// A table of the driver's functions. Those that every driver since 11.8 has are never null.
struct Driver {
  int version = 0;  // the CUDA version it supports: 13000 is 13.0
  std::string path;

  Result (*init)(unsigned flags) = nullptr;
  Result (*driver_get_version)(int* version) = nullptr;
  Result (*get_error_name)(Result, const char** text) = nullptr;
  Result (*get_error_string)(Result, const char** text) = nullptr;

  Result (*device_get_count)(int* count) = nullptr;
  Result (*device_get)(int* device, int ordinal) = nullptr;
  Result (*device_get_name)(char* name, int size, int device) = nullptr;
  Result (*device_get_attribute)(int* value, int attribute, int device) = nullptr;
  Result (*device_total_mem)(std::size_t* bytes, int device) = nullptr;
  Result (*device_primary_ctx_retain)(ContextObject** context, int device) = nullptr;

  Result (*ctx_get_current)(ContextObject** context) = nullptr;
  Result (*ctx_push_current)(ContextObject* context) = nullptr;
  Result (*ctx_pop_current)(ContextObject** context) = nullptr;

  Result (*mem_alloc)(DevicePointer* pointer, std::size_t bytes) = nullptr;
  Result (*mem_free)(DevicePointer pointer) = nullptr;
  Result (*mem_host_alloc)(void** pointer, std::size_t bytes, unsigned flags) = nullptr;
  Result (*mem_free_host)(void* pointer) = nullptr;
  Result (*pointer_get_attribute)(void* value, int attribute, DevicePointer pointer) = nullptr;
  Result (*memset_d8_async)(DevicePointer to, unsigned char value, std::size_t count,
                            StreamHandle) = nullptr;
  Result (*memset_d32_async)(DevicePointer to, unsigned value, std::size_t count,
                             StreamHandle) = nullptr;
  Result (*memcpy_htod_async)(DevicePointer to, const void* from, std::size_t bytes,
                              StreamHandle) = nullptr;
  Result (*memcpy_dtoh_async)(void* to, DevicePointer from, std::size_t bytes,
                              StreamHandle) = nullptr;
  Result (*memcpy_dtod_async)(DevicePointer to, DevicePointer from, std::size_t bytes,
                              StreamHandle) = nullptr;

  Result (*stream_create)(StreamHandle* stream, unsigned flags) = nullptr;
  Result (*stream_destroy)(StreamHandle) = nullptr;
  Result (*stream_synchronize)(StreamHandle) = nullptr;
  Result (*stream_wait_event)(StreamHandle, EventObject*, unsigned flags) = nullptr;
  Result (*stream_is_capturing)(StreamHandle, int* status) = nullptr;
  Result (*stream_begin_capture)(StreamHandle, int mode) = nullptr;
  Result (*stream_end_capture)(StreamHandle, GraphObject** graph) = nullptr;
  Result (*graph_instantiate)(GraphExecObject** exec, GraphObject*,
                              unsigned long long flags) = nullptr;
  Result (*graph_launch)(GraphExecObject*, StreamHandle) = nullptr;
  Result (*graph_exec_destroy)(GraphExecObject*) = nullptr;
  Result (*graph_destroy)(GraphObject*) = nullptr;

  Result (*event_create)(EventObject** event, unsigned flags) = nullptr;
  Result (*event_destroy)(EventObject*) = nullptr;
  Result (*event_record)(EventObject*, StreamHandle) = nullptr;
  Result (*event_query)(EventObject*) = nullptr;
  Result (*event_synchronize)(EventObject*) = nullptr;
  Result (*event_elapsed_time)(float* milliseconds, EventObject* start, EventObject* end) = nullptr;

  Result (*tensor_map_encode_tiled)(void* map, int data_type, unsigned rank, void* address,
                                    const std::uint64_t* shape, const std::uint64_t* strides,
                                    const unsigned* box, const unsigned* element_strides,
                                    int interleave, int swizzle, int l2_promotion,
                                    int out_of_bounds) = nullptr;

  Result (*module_load_data)(ModuleObject** module, const void* image) = nullptr;
  Result (*module_unload)(ModuleObject*) = nullptr;
  Result (*module_get_function)(FunctionObject** function, ModuleObject*,
                                const char* name) = nullptr;
  Result (*func_get_attribute)(int* value, int attribute, FunctionObject*) = nullptr;
  Result (*func_set_attribute)(FunctionObject*, int attribute, int value) = nullptr;
  Result (*occupancy_max_active_blocks)(int* blocks, FunctionObject*, int block_size,
                                        std::size_t dynamic_shared_bytes) = nullptr;
  Result (*occupancy_max_active_clusters)(int* clusters, FunctionObject*,
                                          const LaunchConfig*) = nullptr;
  Result (*launch_kernel_ex)(const LaunchConfig*, FunctionObject*, void** params,
                             void** extra) = nullptr;
  // Since 12.4; else null.
  Result (*func_get_param_info)(FunctionObject*, std::size_t index, std::size_t* offset,
                                std::size_t* bytes) = nullptr;
};

// The driver, opened and initialised at the first call; thread-safe. Error (not_supported) where
// there is none or no GPU is visible: what was tried, and how to mend it. Error (invalid_state) in
// a process that was forked after the driver was initialised.
const Driver& driver();

// The same without an Error: null, and why.
const Driver* find_driver(std::string* why = nullptr);

// Opens the first of these libraries that can be, without initialising it. For driver() and tests.
Driver open_driver(const std::vector<std::string>& libraries);

// The CUDA version of this machine's driver, which is not initialised by this; 0 where there is
// none.
int installed_driver_version();

// Error (device_error, or out_of_memory) naming the call unless `result` is success.
[[noreturn]] void raise_driver_error(const Driver&, Result result, std::string_view call);
inline void check(const Driver& api, Result result, std::string_view call) {
  if (result != kSuccess) [[unlikely]] {
    raise_driver_error(api, result, call);
  }
}

inline StreamHandle handle_of(Stream stream) {
  return static_cast<StreamHandle>(stream.handle);
}
inline DevicePointer address_of(const void* pointer) {
  return reinterpret_cast<DevicePointer>(pointer);
}

}  // namespace tilewright::cuda
