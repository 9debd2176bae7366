// SPDX-License-Identifier: Apache-2.0
// torch tensors by DLPack's functions for C (0.03 us each), or by their attributes (0.7 us) where
// torch is older than 2.10: `__dlpack__()` would cost 3 us. Nothing here imports torch; a tensor
// can only be met where somebody did.
#pragma once

#include <nanobind/nanobind.h>
#include <tilewright/tensor_view.h>

#include <span>

namespace tilewright::python {

namespace nb = nanobind;

bool is_torch_tensor(nb::handle object);
// Any rank up to TensorView::kMaxRank, 0 included. Errors: TypeError for a dtype the library does
// not have, not_supported for a device other than cpu and cuda.
TensorView view_of_torch(nb::handle tensor, const char* name);
// Uninitialised, on the device of `like`.
nb::object empty_torch(nb::handle like, DType dtype, std::span<const std::int64_t> shape);
// torch's current stream of a GPU; the default one where nobody has imported a torch for CUDA.
Stream current_torch_stream(int gpu);

}  // namespace tilewright::python
