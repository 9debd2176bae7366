/* SPDX-License-Identifier: Apache-2.0 */
/* CUDA kernels in C: NVRTC, the GPUs, the cache on disk, compiling ahead, packs. See jit.h. */
#ifndef TILEWRIGHT_C_JIT_H
#define TILEWRIGHT_C_JIT_H

#include <tilewright/c_plan.h>

#ifdef __cplusplus
extern "C" {
#endif

/* NOLINTBEGIN(readability-identifier-naming) */

/* From any thread; `message` lives until it returns. handler NULL: nobody is told. */
TILEWRIGHT_API tw_status tw_set_warning_handler(void (*handler)(const char* message, void* context),
                                                void* context);

/* "" takes it back. */
TILEWRIGHT_API tw_status tw_set_nvrtc_path(const char* path);
TILEWRIGHT_API tw_status tw_set_python_folders(const char* const* folders, size_t num_folders);

/* Strings of these four functions are valid until this thread's next call of the function. */
typedef struct tw_nvrtc_info {
  size_t size;
  const char* path;
  int32_t major;
  int32_t minor;
} tw_nvrtc_info;

TILEWRIGHT_API tw_status tw_get_nvrtc_info(tw_nvrtc_info* info);

typedef struct tw_cuda_info {
  size_t size;
  const char* driver_path;
  int32_t driver_major;
  int32_t driver_minor;
  size_t num_devices;
} tw_cuda_info;

TILEWRIGHT_API tw_status tw_get_cuda_info(tw_cuda_info* info);

typedef struct tw_cuda_device {
  size_t size;
  const char* name;
  const char* arch; /* what kernels are compiled for: "sm_80", "sm_90a" */
  uint64_t memory_bytes;
  int32_t index;
  int32_t num_sms;
} tw_cuda_device;

TILEWRIGHT_API tw_status tw_get_cuda_device(size_t index, tw_cuda_device* device);

/* "": there is no folder. */
TILEWRIGHT_API tw_status tw_kernel_cache_path(const char** path);
/* "": none. */
TILEWRIGHT_API tw_status tw_set_kernel_cache_path(const char* folder);

/* What the cache on disk holds, as of when it was read. */
typedef struct tw_kernel_cache tw_kernel_cache;

/* Strings live as long as the tw_kernel_cache. */
typedef struct tw_kernel_cache_entry {
  size_t size;
  const char* file;
  const char* kernel; /* this and the next two: "" where damaged */
  const char* arch;
  const char* compiler;
  double seconds;
  uint64_t bytes;
  const char* damage; /* "": none */
} tw_kernel_cache_entry;

TILEWRIGHT_API tw_status tw_kernel_cache_read(tw_kernel_cache** cache);
TILEWRIGHT_API tw_status tw_kernel_cache_count(const tw_kernel_cache* cache, size_t* count);
TILEWRIGHT_API tw_status tw_kernel_cache_get(const tw_kernel_cache* cache, size_t index,
                                             tw_kernel_cache_entry* entry);
TILEWRIGHT_API void tw_kernel_cache_destroy(tw_kernel_cache* cache);
/* damaged_only: 0, 1. removed may be NULL. */
TILEWRIGHT_API tw_status tw_clear_kernel_cache(int32_t damaged_only, size_t* removed);

/* Specs of well-known models. Variants live as long as the list. */
typedef struct tw_attention_specs tw_attention_specs;

/* *names: [*count], live as long as the library. */
TILEWRIGHT_API tw_status tw_model_names(const char* const** names, size_t* count);
/* kv_dtype TW_DEFAULT_DTYPE: bf16. */
TILEWRIGHT_API tw_status tw_model_attention_specs(const char* model, tw_dtype kv_dtype,
                                                  tw_attention_specs** specs);
TILEWRIGHT_API tw_status tw_common_attention_specs(tw_attention_specs** specs);
TILEWRIGHT_API tw_status tw_attention_specs_count(const tw_attention_specs* specs, size_t* count);
TILEWRIGHT_API tw_status tw_attention_specs_get(const tw_attention_specs* specs, size_t index,
                                                tw_attention_spec* spec);
TILEWRIGHT_API void tw_attention_specs_destroy(tw_attention_specs* specs);

typedef struct tw_kernel_report {
  size_t size;
  const char* kernel;
  const char* arch;
  double seconds;
  int32_t registers;
  int32_t spill_bytes;
  int32_t shared_bytes;
  int32_t from_cache;
  const char* error; /* "": it compiled */
} tw_kernel_report;

/* The attentions that one plan serves together. */
typedef struct tw_shared_plan {
  size_t size;
  const tw_attention_spec* specs; /* [num_specs] */
  size_t num_specs;
} tw_shared_plan;

typedef struct tw_compile_options {
  size_t size;
  const char* const* archs; /* [num_archs]; none: those of this machine's GPUs */
  size_t num_archs;
  const tw_shared_plan* plans; /* [num_plans] */
  size_t num_plans;
  const tw_limits* limits; /* NULL: whatever the limits of plans */
  const char* pack;        /* NULL: none is written */
  /* After each kernel, one call at a time, from any thread; the report lives until it returns.
   * May be NULL. */
  void (*progress)(const tw_kernel_report* report, size_t done, size_t total, void* context);
  void* context;
  int32_t jobs;             /* 0: as many as there are cores */
  int32_t without_ops;      /* 1: not the operators and sampling */
  int32_t block_structures; /* 0, 1 */
  int32_t reserved;
} tw_compile_options;

/* A report of each kernel, those that did not compile among them; strings live as long. */
typedef struct tw_kernel_reports tw_kernel_reports;

/* options NULL: the defaults. TW_OK also where a kernel did not compile: see the reports. */
TILEWRIGHT_API tw_status tw_compile_kernels(const tw_attention_spec* specs, size_t num_specs,
                                            const tw_compile_options* options,
                                            tw_kernel_reports** reports);
TILEWRIGHT_API tw_status tw_kernel_reports_count(const tw_kernel_reports* reports, size_t* count);
TILEWRIGHT_API tw_status tw_kernel_reports_get(const tw_kernel_reports* reports, size_t index,
                                               tw_kernel_report* report);
TILEWRIGHT_API void tw_kernel_reports_destroy(tw_kernel_reports* reports);

/* *kernels: how many it has; may be NULL. */
TILEWRIGHT_API tw_status tw_load_kernel_pack(const char* path, size_t* kernels);

/* NOLINTEND(readability-identifier-naming) */

#ifdef __cplusplus
}
#endif

#endif
