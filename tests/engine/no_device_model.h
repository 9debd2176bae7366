// SPDX-License-Identifier: Apache-2.0
// Whether this machine can run models on a GPU.
#pragma once

#include <tilewright/error.h>

#include <optional>
#include <string>

#include "cuda/device.h"
#include "engine/cublaslt.h"

namespace tilewright::test {

// Why not: no GPU, or no cuBLASLt.
inline std::optional<std::string> no_device_model() {
  try {
    const int most_major = cuda::driver().version / 1000;
    engine::open_cublaslt(engine::cublaslt_candidates("", most_major));
    return std::nullopt;
  } catch (const Error& error) {
    return error.what();
  }
}

}  // namespace tilewright::test
