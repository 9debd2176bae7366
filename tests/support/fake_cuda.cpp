// SPDX-License-Identifier: Apache-2.0
// A test double of libcuda.so.1: just enough of the driver for loading, contexts, memory and launch
// code to run on machines without a GPU. Built as a shared library with that name.
#include "support/fake_cuda.h"

#include <elf.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <set>

#define FAKE extern "C" __attribute__((visibility("default")))

using tilewright::test::FakeCuda;
using tilewright::test::FakeLaunch;

namespace {

std::mutex mutex;
FakeCuda state;

struct Context {
  int device;
};
std::vector<std::unique_ptr<Context>> contexts(64);
thread_local std::vector<Context*> stack;

struct Section {
  std::string name;
  const char* data;
  std::size_t bytes;
};
struct Module {
  std::string image;
  std::vector<Section> sections;
};
struct Function {
  Module* module;
  std::string name;
  int dynamic_shared_bytes = 48 << 10;
};
std::vector<std::unique_ptr<Function>> functions;

// Counts the call; what it is to fail with, else 0.
int call(const char* name) {
  const std::lock_guard lock(mutex);
  ++state.calls[name];
  const auto failure = state.failures.find(name);
  return failure != state.failures.end() ? failure->second : 0;
}
int with_context(const char* name) {
  const int result = call(name);
  return result == 0 && stack.empty() ? 201 : result;  // CUDA_ERROR_INVALID_CONTEXT
}

// A copy of a cubin, which is an ELF file, and its sections; empty where it is none.
void read_image(const char* image, Module& out) {
  Elf64_Ehdr header;
  std::memcpy(&header, image, sizeof header);
  if (std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0) return;
  std::vector<Elf64_Shdr> table(header.e_shnum);
  std::memcpy(table.data(), image + header.e_shoff, table.size() * sizeof(Elf64_Shdr));
  std::size_t end = 0;
  for (const Elf64_Shdr& section : table) {
    if (section.sh_type != SHT_NOBITS) end = std::max(end, section.sh_offset + section.sh_size);
  }
  out.image.assign(image, end);
  for (const Elf64_Shdr& section : table) {
    if (section.sh_type == SHT_NOBITS) continue;
    out.sections.push_back({image + table[header.e_shstrndx].sh_offset + section.sh_name,
                            out.image.data() + section.sh_offset, section.sh_size});
  }
}

const Section* find_section(const Module& module, const std::string& name) {
  for (const Section& section : module.sections) {
    if (section.name == name) return &section;
  }
  return nullptr;
}

// EIATTR_KPARAM_INFO of .nv.info.<function>: entries are a format, a number, and two bytes that are
// the value or the length of what follows. (EIATTR_CBANK_PARAM_SIZE counts what aligns a
// parameter.)
std::size_t params_bytes(const Function& function) {
  struct ParamInfo {
    std::uint32_t index;
    std::uint16_t ordinal, offset;
    std::uint32_t size_and_flags;
  };
  const Section* info = find_section(*function.module, ".nv.info." + function.name);
  for (std::size_t at = 0; info != nullptr && at + 4 <= info->bytes;) {
    const auto format = static_cast<unsigned char>(info->data[at]);
    const auto attribute = static_cast<unsigned char>(info->data[at + 1]);
    std::uint16_t value = 0;
    std::memcpy(&value, info->data + at + 2, sizeof value);
    if (attribute == 0x17 && value >= sizeof(ParamInfo)) {
      ParamInfo param;
      std::memcpy(&param, info->data + at + 4, sizeof param);
      return param.size_and_flags >> 18;
    }
    at += 4 + (format == 4 ? value : 0U);
  }
  return 0;
}

}  // namespace

FAKE FakeCuda* fake_cuda_state() {
  return &state;
}

FAKE int cuInit(unsigned) {
  const int result = call("cuInit");
  return result != 0 ? result : state.devices == 0 ? 100 : 0;
}
// NVRTC asks the driver for tables of its own, and does without.
FAKE int cuGetExportTable(const void** table, const void*) {
  *table = nullptr;
  return 500;
}
FAKE int cuDriverGetVersion(int* version) {
  *version = state.driver_version;
  return call("cuDriverGetVersion");
}
FAKE int cuGetErrorName(int result, const char** text) {
  *text = result == 1     ? "CUDA_ERROR_INVALID_VALUE"
          : result == 2   ? "CUDA_ERROR_OUT_OF_MEMORY"
          : result == 100 ? "CUDA_ERROR_NO_DEVICE"
          : result == 201 ? "CUDA_ERROR_INVALID_CONTEXT"
          : result == 209 ? "CUDA_ERROR_NO_BINARY_FOR_GPU"
          : result == 500 ? "CUDA_ERROR_NOT_FOUND"
          : result == 700 ? "CUDA_ERROR_ILLEGAL_ADDRESS"
                          : "CUDA_ERROR_UNKNOWN";
  return 0;
}
FAKE int cuGetErrorString(int result, const char** text) {
  *text = result == 700 ? "an illegal memory access was encountered" : "the text of an error";
  return 0;
}

FAKE int cuDeviceGetCount(int* count) {
  *count = state.devices;
  return call("cuDeviceGetCount");
}
FAKE int cuDeviceGet(int* device, int ordinal) {
  *device = ordinal;
  return call("cuDeviceGet");
}
FAKE int cuDeviceGetName(char* name, int size, int) {
  std::strncpy(name, "Fake GPU", static_cast<std::size_t>(size));
  return call("cuDeviceGetName");
}
FAKE int cuDeviceGetAttribute(int* value, int attribute, int) {
  *value = attribute == 16   ? 132
           : attribute == 38 ? 50 << 20
           : attribute == 75 ? state.major
           : attribute == 76 ? state.minor
           : attribute == 81 ? 228 << 10
           : attribute == 97 ? 227 << 10
                             : 0;
  return call("cuDeviceGetAttribute");
}
FAKE int cuDeviceTotalMem_v2(std::size_t* bytes, int) {
  *bytes = std::size_t{80} << 30;
  return call("cuDeviceTotalMem");
}
FAKE int cuDevicePrimaryCtxRetain(void** context, int device) {
  const std::lock_guard lock(mutex);
  ++state.calls["cuDevicePrimaryCtxRetain"];
  auto& slot = contexts.at(static_cast<std::size_t>(device));
  if (slot == nullptr) slot = std::make_unique<Context>(Context{device});
  *context = slot.get();
  return 0;
}

FAKE int cuCtxGetCurrent(void** context) {
  *context = stack.empty() ? nullptr : stack.back();
  return 0;
}
FAKE int cuCtxPushCurrent_v2(void* context) {
  stack.push_back(static_cast<Context*>(context));
  const std::lock_guard lock(mutex);
  ++state.contexts_on_stack;
  return 0;
}
FAKE int cuCtxPopCurrent_v2(void** context) {
  if (stack.empty()) return 201;
  *context = stack.back();
  stack.pop_back();
  const std::lock_guard lock(mutex);
  --state.contexts_on_stack;
  return 0;
}

namespace {
// What nobody gives back, or may not, goes with the process, as a context takes its memory with it.
struct Block {
  std::size_t bytes;
  std::unique_ptr<void, decltype(&std::free)> memory;
};
std::map<void*, Block> blocks;
int allocate(const char* name, void** pointer, std::size_t bytes) {
  if (const int result = with_context(name); result != 0) return result;
  const std::size_t whole = (bytes + 255) / 256 * 256;
  *pointer = std::aligned_alloc(256, whole);
  if (*pointer == nullptr) return 2;  // CUDA_ERROR_OUT_OF_MEMORY
  std::memset(*pointer, 0, whole);    // what kernels would write is read as zeros
  const std::lock_guard lock(mutex);
  state.bytes_allocated += bytes;
  blocks.insert_or_assign(*pointer, Block{bytes, {*pointer, &std::free}});
  return 0;
}
int give_back(const char* name, void* pointer) {
  if (const int result = with_context(name); result != 0) return result;
  const std::lock_guard lock(mutex);
  const auto block = blocks.find(pointer);
  if (block == blocks.end()) return 1;
  state.bytes_allocated -= block->second.bytes;
  blocks.erase(block);
  return 0;
}
void* host(unsigned long long pointer) {
  return reinterpret_cast<void*>(pointer);  // NOLINT(performance-no-int-to-ptr)
}
}  // namespace

FAKE int cuMemAlloc_v2(unsigned long long* pointer, std::size_t bytes) {
  void* block = nullptr;
  const int result = allocate("cuMemAlloc", &block, bytes);
  *pointer = reinterpret_cast<unsigned long long>(block);
  return result;
}
FAKE int cuMemFree_v2(unsigned long long pointer) {
  return give_back("cuMemFree", host(pointer));
}
FAKE int cuMemHostAlloc(void** pointer, std::size_t bytes, unsigned) {
  return allocate("cuMemHostAlloc", pointer, bytes);
}
FAKE int cuMemFreeHost(void* pointer) {
  return give_back("cuMemFreeHost", pointer);
}
// The address of pinned memory on the device; it is the same.
FAKE int cuPointerGetAttribute(void* value, int attribute, unsigned long long pointer) {
  if (const int result = with_context("cuPointerGetAttribute"); result != 0) return result;
  const std::lock_guard lock(mutex);
  const auto behind = blocks.upper_bound(host(pointer));
  if (attribute != 3 || behind == blocks.begin()) return 1;
  const auto& [begin, block] = *std::prev(behind);
  if (pointer - reinterpret_cast<unsigned long long>(begin) >= block.bytes) return 1;
  std::memcpy(value, &pointer, sizeof pointer);
  return 0;
}
FAKE int cuMemsetD8Async(unsigned long long to, unsigned char value, std::size_t count, void*) {
  const int result = with_context("cuMemsetD8Async");
  if (result == 0) std::memset(host(to), value, count);
  return result;
}
FAKE int cuMemsetD32Async(unsigned long long to, unsigned value, std::size_t count, void*) {
  const int result = with_context("cuMemsetD32Async");
  if (result == 0) std::fill_n(static_cast<unsigned*>(host(to)), count, value);
  return result;
}
FAKE int cuMemcpyHtoDAsync_v2(unsigned long long to, const void* from, std::size_t bytes, void*) {
  const int result = with_context("cuMemcpyHtoDAsync");
  if (result == 0) std::memcpy(host(to), from, bytes);
  return result;
}
FAKE int cuMemcpyDtoHAsync_v2(void* to, unsigned long long from, std::size_t bytes, void*) {
  const int result = with_context("cuMemcpyDtoHAsync");
  if (result == 0) std::memcpy(to, host(from), bytes);
  return result;
}
FAKE int cuMemcpyDtoDAsync_v2(unsigned long long to, unsigned long long from, std::size_t bytes,
                              void*) {
  const int result = with_context("cuMemcpyDtoDAsync");
  if (result == 0) std::memmove(host(to), host(from), bytes);
  return result;
}

namespace {
struct Handle {};  // of streams, events and graphs
Handle handles[8];
std::set<void*> capturing;
}  // namespace

FAKE int cuStreamCreate(void** stream, unsigned) {
  *stream = &handles[0];
  return with_context("cuStreamCreate");
}
FAKE int cuStreamDestroy_v2(void*) {
  return call("cuStreamDestroy");
}
FAKE int cuStreamSynchronize(void*) {
  return with_context("cuStreamSynchronize");
}
FAKE int cuStreamWaitEvent(void*, void*, unsigned) {
  return call("cuStreamWaitEvent");
}
FAKE int cuStreamIsCapturing(void* stream, int* status) {
  *status = capturing.count(stream) > 0 ? 1 : 0;
  return call("cuStreamIsCapturing");
}
FAKE int cuStreamBeginCapture_v2(void* stream, int) {
  capturing.insert(stream);
  return call("cuStreamBeginCapture");
}
FAKE int cuStreamEndCapture(void* stream, void** graph) {
  capturing.erase(stream);
  *graph = &handles[1];
  return call("cuStreamEndCapture");
}
FAKE int cuGraphInstantiateWithFlags(void** exec, void*, unsigned long long) {
  *exec = &handles[2];
  return call("cuGraphInstantiate");
}
FAKE int cuGraphLaunch(void*, void*) {
  return call("cuGraphLaunch");
}
FAKE int cuGraphExecDestroy(void*) {
  return call("cuGraphExecDestroy");
}
FAKE int cuGraphDestroy(void*) {
  return call("cuGraphDestroy");
}

FAKE int cuEventCreate(void** event, unsigned) {
  *event = &handles[3];
  return with_context("cuEventCreate");
}
FAKE int cuEventDestroy_v2(void*) {
  return call("cuEventDestroy");
}
FAKE int cuEventRecord(void*, void*) {
  return call("cuEventRecord");
}
FAKE int cuEventQuery(void*) {
  return call("cuEventQuery");
}
FAKE int cuEventSynchronize(void*) {
  return call("cuEventSynchronize");
}
FAKE int cuEventElapsedTime(float* milliseconds, void*, void*) {
  *milliseconds = 1.5F;
  return call("cuEventElapsedTime");
}

FAKE int cuModuleLoadData(void** module, const void* image) {
  if (const int result = with_context("cuModuleLoadData"); result != 0) return result;
  auto made = std::make_unique<Module>();
  read_image(static_cast<const char*>(image), *made);
  if (made->sections.empty()) return 209;
  *module = made.release();
  const std::lock_guard lock(mutex);
  ++state.modules;
  return 0;
}
FAKE int cuModuleUnload(void* module) {
  const int result = with_context("cuModuleUnload");
  delete static_cast<Module*>(module);
  const std::lock_guard lock(mutex);
  --state.modules;
  return result;
}
FAKE int cuModuleGetFunction(void** function, void* module, const char* name) {
  if (const int result = with_context("cuModuleGetFunction"); result != 0) return result;
  auto* loaded = static_cast<Module*>(module);
  if (find_section(*loaded, std::string(".text.") + name) == nullptr) return 500;
  const std::lock_guard lock(mutex);
  functions.push_back(std::make_unique<Function>(Function{loaded, name}));
  *function = functions.back().get();
  return 0;
}
FAKE int cuFuncGetAttribute(int* value, int attribute, void* function) {
  *value = attribute == 8 ? static_cast<Function*>(function)->dynamic_shared_bytes : 7;
  return call("cuFuncGetAttribute");
}
FAKE int cuFuncSetAttribute(void* function, int attribute, int value) {
  if (const int result = call("cuFuncSetAttribute"); result != 0) return result;
  if (attribute == 8 && value > (227 << 10)) return 1;
  if (attribute == 8) static_cast<Function*>(function)->dynamic_shared_bytes = value;
  return 0;
}
FAKE int cuFuncGetParamInfo(void* function, std::size_t index, std::size_t* offset,
                            std::size_t* bytes) {
  *offset = 0;
  *bytes = params_bytes(*static_cast<Function*>(function));
  return index == 0 ? call("cuFuncGetParamInfo") : 1;
}
FAKE int cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks_per_sm, void*, int block,
                                                     std::size_t) {
  *blocks_per_sm = 2048 / block;
  return call("cuOccupancyMaxActiveBlocksPerMultiprocessor");
}

namespace {
// CUlaunchConfig and CUlaunchAttribute, written down a second time.
struct Attribute {
  int id;
  int padding;
  union {
    char bytes[64];
    int flag;
  };
};
struct Config {
  unsigned grid[3], block[3], shared_bytes;
  void* stream;
  Attribute* attributes;
  unsigned num_attributes;
};
}  // namespace

// A GPU of one SM: cluster dimensions are attribute 4.
FAKE int cuOccupancyMaxActiveClusters(int* clusters, void*, const Config* config) {
  unsigned blocks = 1;
  for (unsigned i = 0; i < config->num_attributes; ++i) {
    if (config->attributes[i].id == 4) std::memcpy(&blocks, config->attributes[i].bytes, 4);
  }
  *clusters = static_cast<int>(2048 / config->block[0] / blocks);
  return call("cuOccupancyMaxActiveClusters");
}

FAKE int cuTensorMapEncodeTiled(void* map, int, unsigned rank, void* address,
                                const std::uint64_t* shape, const std::uint64_t* strides,
                                const unsigned* box, const unsigned*, int, int, int, int) {
  bool taken = reinterpret_cast<std::uintptr_t>(address) % 16 == 0;
  for (unsigned dim = 0; dim < rank; ++dim) {
    taken = taken && shape[dim] > 0 && shape[dim] <= std::uint64_t{1} << 32 && box[dim] <= 256;
    if (dim > 0) {
      taken = taken && strides[dim - 1] % 16 == 0 && strides[dim - 1] < std::uint64_t{1} << 40;
    }
  }
  if (!taken) return 1;
  std::memset(map, 0x5A, 128);
  return call("cuTensorMapEncodeTiled");
}
FAKE int cuLaunchKernelEx(const Config* config, void* function, void** params, void**) {
  if (const int result = with_context("cuLaunchKernelEx"); result != 0) return result;
  const auto& called = *static_cast<Function*>(function);
  if (config->grid[0] == 0 || config->block[0] == 0 || config->block[0] > 1024 ||
      static_cast<int>(config->shared_bytes) > called.dynamic_shared_bytes) {
    return 1;
  }
  FakeLaunch launch;
  launch.kernel = called.name;
  launch.device = stack.back()->device;
  launch.grid = config->grid[0];
  launch.block = config->block[0];
  launch.shared_bytes = config->shared_bytes;
  launch.stream = config->stream;
  for (unsigned i = 0; i < config->num_attributes; ++i) {
    if (config->attributes[i].id == 6) launch.programmatic = config->attributes[i].flag != 0;
    if (config->attributes[i].id == 4) launch.cluster = config->attributes[i].flag;
  }
  launch.params.assign(static_cast<const char*>(params[0]), params_bytes(called));
  const std::lock_guard lock(mutex);
  state.launches.push_back(std::move(launch));
  return 0;
}
