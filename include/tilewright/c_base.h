/* SPDX-License-Identifier: Apache-2.0 */
/* The C API's ground: errors, tensors, DLPack, threads, version. See tensor_view.h, dlpack.h,
 * threads.h, error.h.
 *
 * Functions return TW_OK or what went wrong, and then tw_last_error() says it. Results go through
 * the last pointers of a function and are written only when it succeeds. NULL is an error unless a
 * comment says that it may be, and what it means then. No exception leaves a function.
 *
 * Structs that begin with `size` may grow: the caller sets it to sizeof of the struct, also of
 * those that a function fills in, and leaves what it does not use zero, `reserved` among it: zero
 * is always "not given" or the default. A larger size than this library knows is an error unless
 * the rest is zero. In an array of them, all have the same size. Structs without `size` never
 * change.
 *
 * Handles are made by tw_..._create() and given back once by tw_..._destroy(), which takes NULL;
 * using or destroying one afterwards is undefined, as with free(). What a handle was made from may
 * be destroyed before it. Functions of const handles may run in several threads at once. */
#ifndef TILEWRIGHT_C_BASE_H
#define TILEWRIGHT_C_BASE_H

/* NOLINTBEGIN(modernize-deprecated-headers) */
#include <stddef.h>
#include <stdint.h>
/* NOLINTEND(modernize-deprecated-headers) */
#include <tilewright/export.h>
#include <tilewright/version.h>

#ifdef __cplusplus
extern "C" {
#endif

/* NOLINTBEGIN(readability-identifier-naming) */

typedef int32_t tw_status;
enum {
  TW_OK = 0,
  TW_INVALID_ARGUMENT = 1,
  TW_LIMIT_EXCEEDED = 2,
  TW_NOT_SUPPORTED = 3,
  TW_INVALID_STATE = 4,
  TW_OUT_OF_MEMORY = 5,
  TW_DEVICE_ERROR = 6,
  TW_COMPILE_ERROR = 7,
  TW_INTERNAL = 8
};

/* What the last function that failed in this thread said; "" before. Valid until the next one fails
 * in this thread. */
TILEWRIGHT_API const char* tw_last_error(void);
TILEWRIGHT_API const char* tw_status_name(tw_status status); /* "invalid argument", ... */

/* Of the library that is loaded; TILEWRIGHT_VERSION is that of the headers. */
TILEWRIGHT_API const char* tw_version(void);
TILEWRIGHT_API tw_status tw_cpu_features(const char** features); /* lives as long as the library */

TILEWRIGHT_API tw_status tw_set_num_threads(int32_t threads);
TILEWRIGHT_API tw_status tw_num_threads(int32_t* threads);

typedef int32_t tw_dtype;
enum {
  TW_DEFAULT_DTYPE = 0, /* where a dtype is optional */
  TW_F32 = 1,
  TW_F16 = 2,
  TW_BF16 = 3,
  TW_F8E4M3 = 4,
  TW_F8E5M2 = 5,
  TW_I8 = 6,
  TW_I32 = 7,
  TW_I64 = 8,
  TW_U8 = 9
};

TILEWRIGHT_API tw_status tw_dtype_bytes(tw_dtype dtype, int32_t* bytes);
TILEWRIGHT_API tw_status tw_dtype_name(tw_dtype dtype, const char** name);

enum { TW_CPU = 0, TW_CUDA = 1 };

typedef struct tw_device {
  int32_t type;
  int32_t index;
} tw_device;

/* A cudaStream_t or CUstream; NULL: the default one. Ignored on the CPU. */
typedef void* tw_stream;

enum { TW_MAX_RANK = 6 };

/* A view of memory that the caller owns. All zero is "no tensor". `data` is aligned to an element;
 * strides are in elements. */
typedef struct tw_tensor {
  void* data;
  int64_t shape[TW_MAX_RANK];
  int64_t strides[TW_MAX_RANK];
  int32_t rank;
  tw_dtype dtype;
  tw_device device;
} tw_tensor;

/* Strides NULL: row-major, contiguous. */
TILEWRIGHT_API tw_status tw_tensor_init(const void* data, tw_dtype dtype, int32_t rank,
                                        const int64_t* shape, const int64_t* strides,
                                        tw_device device, tw_tensor* tensor);
/* Views into a view. `view` may be `tensor`. */
TILEWRIGHT_API tw_status tw_tensor_slice(const tw_tensor* tensor, int32_t dim, int64_t begin,
                                         int64_t end, tw_tensor* view);
TILEWRIGHT_API tw_status tw_tensor_select(const tw_tensor* tensor, int32_t dim, int64_t index,
                                          tw_tensor* view);
TILEWRIGHT_API tw_status tw_tensor_transpose(const tw_tensor* tensor, int32_t dim0, int32_t dim1,
                                             tw_tensor* view);
TILEWRIGHT_API tw_status tw_tensor_unsqueeze(const tw_tensor* tensor, int32_t dim, tw_tensor* view);

/* Include the dlpack.h you have for their members. */
struct DLManagedTensor;
struct DLManagedTensorVersioned;

TILEWRIGHT_API tw_status tw_tensor_from_dlpack(const struct DLManagedTensor* managed,
                                               tw_tensor* tensor);
TILEWRIGHT_API tw_status
tw_tensor_from_dlpack_versioned(const struct DLManagedTensorVersioned* managed, tw_tensor* tensor);
/* The deleter of the result calls release(context); release may be NULL. */
TILEWRIGHT_API tw_status tw_tensor_to_dlpack(const tw_tensor* tensor, void (*release)(void*),
                                             void* context, struct DLManagedTensor** managed);
TILEWRIGHT_API tw_status tw_tensor_to_dlpack_versioned(const tw_tensor* tensor,
                                                       void (*release)(void*), void* context,
                                                       int32_t read_only,
                                                       struct DLManagedTensorVersioned** managed);

/* A number, or a tensor where `tensor` is one. */
typedef struct tw_real {
  float value;
  tw_tensor tensor;
} tw_real;

typedef struct tw_integer {
  int64_t value;
  tw_tensor tensor;
} tw_integer;

/* The value of a variant's parameter: a number, or a tensor where `tensor` is one. */
typedef struct tw_param {
  const char* name;
  double value;
  tw_tensor tensor;
} tw_param;

/* NOLINTEND(readability-identifier-naming) */

#ifdef __cplusplus
}
#endif

#endif
