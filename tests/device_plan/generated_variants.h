// SPDX-License-Identifier: Apache-2.0
// Variants whose plan kernel the library writes and the tests run: one interval, several, and
// parameters that are tensors.
#pragma once

#include <tilewright/variants.h>

#include <vector>

namespace tilewright::test {

inline std::vector<Variant> generated_variants() {
  using namespace expr;  // NOLINT(google-build-using-namespace)
  const Param window = Param::integer("window", 1);
  Variant by_request;
  by_request.mask = kv_pos() <= q_pos() && kv_pos() > q_pos() - window(batch());
  Variant sink = variants::causal();
  sink.mask = sink.mask && (kv_pos() < 20 || kv_pos() > q_pos() - 30);
  return {variants::causal(), by_request, sink};
}

}  // namespace tilewright::test
