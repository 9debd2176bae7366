// SPDX-License-Identifier: Apache-2.0
// The targets, each in the file of its name, and what they share.
#pragma once

#include <tilewright/error.h>

#include <stdexcept>
#include <string>

#include "fuzz/draw.h"

namespace tilewright::fuzz {

bool fuzz_dlpack(Draw& draw);
bool fuzz_expression(Draw& draw);
bool fuzz_gguf(Draw& draw);
bool fuzz_mask(Draw& draw);
bool fuzz_plan(Draw& draw);
bool fuzz_requests(Draw& draw);
bool fuzz_tokenizer(Draw& draw);
bool fuzz_trace(Draw& draw);
bool fuzz_variant_text(Draw& draw);

inline void check(bool condition, const std::string& what) {
  if (!condition) throw std::runtime_error(what);
}

// Whether the error is one that bad input may raise.
inline bool is_clear(const Error& error) {
  const bool code = error.code() == ErrorCode::invalid_argument ||
                    error.code() == ErrorCode::limit_exceeded ||
                    error.code() == ErrorCode::not_supported;
  return code && std::string(error.what()).size() > 10;
}

// Runs `call`; false when it refuses its input with a clear error.
template <typename Call>
bool taken(const Call& call) {
  try {
    call();
    return true;
  } catch (const Error& error) {
    if (!is_clear(error)) throw;
    return false;
  }
}

}  // namespace tilewright::fuzz
