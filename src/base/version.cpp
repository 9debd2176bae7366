// SPDX-License-Identifier: Apache-2.0
#include <hwy/highway.h>
#include <tilewright/version.h>

namespace tilewright {

const char* version() {
  return TILEWRIGHT_VERSION;
}

std::string cpu_features() {
  // Best first.
  return hwy::TargetName(hwy::SupportedAndGeneratedTargets().front());
}

}  // namespace tilewright
