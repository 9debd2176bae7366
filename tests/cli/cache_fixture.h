// SPDX-License-Identifier: Apache-2.0
// Runs `tilewright` with a kernel cache of the test's own, and the compiler of the tests.
#pragma once

#include "cli/cli_fixture.h"
#include "support/use_nvrtc.h"

namespace tilewright::test {

class CliCacheFixture : public CliFixture {
 protected:
  CliCacheFixture() {
    environment =
        "XDG_CACHE_HOME=" + cache_.path().string() + " VIRTUAL_ENV=" TILEWRIGHT_TEST_VENV " ";
  }

  const TemporaryFolder cache_;
};

}  // namespace tilewright::test
