// SPDX-License-Identifier: Apache-2.0
// Runs a test body once for each SIMD target that this machine has.
#pragma once

#include <gtest/gtest.h>
#include <hwy/targets.h>

#include <string>

namespace tilewright {

template <typename Body>
void for_each_simd_target(const Body& body) {
  for (const std::int64_t target : hwy::SupportedAndGeneratedTargets()) {
    SCOPED_TRACE(std::string("SIMD target ") + hwy::TargetName(target));
    hwy::SetSupportedTargetsForTest(target);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
    body();
  }
  hwy::SetSupportedTargetsForTest(0);
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
}

}  // namespace tilewright
