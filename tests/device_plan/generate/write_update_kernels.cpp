// SPDX-License-Identifier: Apache-2.0
// Writes the plan kernel of some variants, for the test that runs it in the emulator:
//   write_update_kernels FILE
#include <cstdio>
#include <fstream>

#include "attention/update_kernel.h"
#include "device_plan/generated_variants.h"

int main(int argc, char** argv) {
  using namespace tilewright;  // NOLINT(google-build-using-namespace)
  if (argc != 2) {
    std::fputs("usage: write_update_kernels FILE\n", stderr);
    return 2;
  }
  std::vector<Variant> masks;
  for (const Variant& variant : test::generated_variants()) masks.push_back(mask_of(variant));
  std::ofstream file(argv[1]);
  file << update_kernel_text(masks, masks.size());
  return file.good() ? 0 : 1;
}
