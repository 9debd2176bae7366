// SPDX-License-Identifier: Apache-2.0
// The variants whose device code is tested: the program that writes it and the test that calls it
// make the same list.
#pragma once

#include <tilewright/variant.h>

#include <string>
#include <vector>

namespace tilewright::test {

inline constexpr int kCudaHeadDim = 24;  // of cuda_variant()

struct CudaCase {
  std::string name;
  Variant variant;
};

std::vector<CudaCase> cuda_cases();

}  // namespace tilewright::test
