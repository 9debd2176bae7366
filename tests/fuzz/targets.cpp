// SPDX-License-Identifier: Apache-2.0
#include "fuzz/targets.h"

#include <array>

#include "fuzz/fuzz.h"

namespace tilewright::fuzz {

std::span<const Target> targets() {
  static constexpr std::array kTargets = {
      Target{"dlpack", fuzz_dlpack},
      Target{"expression", fuzz_expression},
      Target{"mask", fuzz_mask},
      Target{"plan", fuzz_plan},
      Target{"variant_text", fuzz_variant_text},
#ifdef TILEWRIGHT_FUZZ_ENGINE
      Target{"gguf", fuzz_gguf},
      Target{"requests", fuzz_requests},
      Target{"tokenizer", fuzz_tokenizer},
      Target{"trace", fuzz_trace},
#endif
  };
  return kTargets;
}

}  // namespace tilewright::fuzz
