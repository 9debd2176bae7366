// SPDX-License-Identifier: Apache-2.0
// TensorView to and from DLPack (https://dmlc.github.io/dlpack), in its versioned 1.x and its older
// form. The structs are only declared here: include the dlpack.h you already have, any version from
// 0.6 on.
#pragma once

#include <tilewright/tensor_view.h>

struct DLManagedTensor;
struct DLManagedTensorVersioned;

namespace tilewright {

// Views of an imported tensor; ownership stays with the caller, who calls the deleter. Errors: a
// null pointer, a device other than CPU (also pinned host memory) and CUDA, a dtype or a rank the
// library does not have, a major version above 1.
TILEWRIGHT_API TensorView from_dlpack(const DLManagedTensor* tensor);
TILEWRIGHT_API TensorView from_dlpack(const DLManagedTensorVersioned* tensor);

// Exports that hold shape and strides of their own; the caller runs the deleter once.
// `release(context)` runs inside it and lets go of the memory behind `view`; it may be null.
TILEWRIGHT_API DLManagedTensor* to_dlpack(const TensorView& view, void (*release)(void*),
                                          void* context);
TILEWRIGHT_API DLManagedTensorVersioned* to_dlpack_versioned(const TensorView& view,
                                                             void (*release)(void*), void* context,
                                                             bool read_only = false);

}  // namespace tilewright
