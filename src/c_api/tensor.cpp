// SPDX-License-Identifier: Apache-2.0
#include <tilewright/c_base.h>
#include <tilewright/dlpack.h>

#include <algorithm>

#include "c_api/guard.h"
#include "c_api/read.h"

using namespace tilewright;
using namespace tilewright::c_api;

tw_status tw_dtype_bytes(tw_dtype dtype, int32_t* bytes) {
  return guarded([&] { required("bytes", bytes) = dtype_bytes(read_dtype("dtype", dtype)); });
}

tw_status tw_dtype_name(tw_dtype dtype, const char** name) {
  return guarded([&] { required("name", name) = dtype_name(read_dtype("dtype", dtype)); });
}

tw_status tw_tensor_init(const void* data, tw_dtype dtype, int32_t rank, const int64_t* shape,
                         const int64_t* strides, tw_device device, tw_tensor* tensor) {
  return guarded([&] {
    required("tensor", tensor);
    required("shape", shape);
    require(rank >= 1 && rank <= TW_MAX_RANK, "rank is {}: it must be in [1, {}]", rank,
            static_cast<int>(TW_MAX_RANK));
    tw_tensor made{};
    made.data = const_cast<void*>(data);
    made.rank = rank;
    made.dtype = dtype;
    made.device = device;
    std::uint64_t stride = 1;  // may wrap: reading it tells
    for (int dim = rank - 1; dim >= 0; --dim) {
      made.shape[dim] = shape[dim];
      made.strides[dim] = strides != nullptr ? strides[dim] : static_cast<std::int64_t>(stride);
      stride *= static_cast<std::uint64_t>(shape[dim]);
    }
    read_tensor("tensor", made);
    *tensor = made;
  });
}

tw_status tw_tensor_slice(const tw_tensor* tensor, int32_t dim, int64_t begin, int64_t end,
                          tw_tensor* view) {
  return guarded([&] {
    required("view", view) = c_tensor(read_tensor("tensor", tensor).slice(dim, begin, end));
  });
}

tw_status tw_tensor_select(const tw_tensor* tensor, int32_t dim, int64_t index, tw_tensor* view) {
  return guarded(
      [&] { required("view", view) = c_tensor(read_tensor("tensor", tensor).select(dim, index)); });
}

tw_status tw_tensor_transpose(const tw_tensor* tensor, int32_t dim0, int32_t dim1,
                              tw_tensor* view) {
  return guarded([&] {
    required("view", view) = c_tensor(read_tensor("tensor", tensor).transpose(dim0, dim1));
  });
}

tw_status tw_tensor_unsqueeze(const tw_tensor* tensor, int32_t dim, tw_tensor* view) {
  return guarded(
      [&] { required("view", view) = c_tensor(read_tensor("tensor", tensor).unsqueeze(dim)); });
}

tw_status tw_tensor_from_dlpack(const DLManagedTensor* managed, tw_tensor* tensor) {
  return guarded([&] {
    required("managed", managed);
    required("tensor", tensor) = c_tensor(from_dlpack(managed));
  });
}

tw_status tw_tensor_from_dlpack_versioned(const DLManagedTensorVersioned* managed,
                                          tw_tensor* tensor) {
  return guarded([&] {
    required("managed", managed);
    required("tensor", tensor) = c_tensor(from_dlpack(managed));
  });
}

tw_status tw_tensor_to_dlpack(const tw_tensor* tensor, void (*release)(void*), void* context,
                              DLManagedTensor** managed) {
  return guarded([&] {
    required("managed", managed);
    *managed = to_dlpack(read_tensor("tensor", tensor), release, context);
  });
}

tw_status tw_tensor_to_dlpack_versioned(const tw_tensor* tensor, void (*release)(void*),
                                        void* context, int32_t read_only,
                                        DLManagedTensorVersioned** managed) {
  return guarded([&] {
    required("managed", managed);
    *managed = to_dlpack_versioned(read_tensor("tensor", tensor), release, context,
                                   read_flag("read_only", read_only));
  });
}
