// SPDX-License-Identifier: Apache-2.0
// A variant's parameter as device code is given it.
#pragma once

#include "plan/host_device.h"

namespace tilewright::plan {

// A number, or a tensor of rank 1 to 3. Extents and strides are in elements.
struct ParamSlot {
  const void* data;  // of a tensor, or of a number that lies on the device; else null
  float real;        // of a number that does not
  std::int32_t integer;
  std::int32_t dtype;  // as in tilewright::DType
  std::int32_t rank;
  std::int32_t shape[3];
  std::int64_t strides[3];
};

}  // namespace tilewright::plan
